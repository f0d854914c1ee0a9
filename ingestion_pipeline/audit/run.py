"""One audit from its beginning to its end."""

from ingestion_pipeline.audit.documents import audit_documents
from ingestion_pipeline.audit.objects import audit_objects
from ingestion_pipeline.audit.partitions import audit_partitions
from ingestion_pipeline.audit.services import Audit
from ingestion_pipeline.audit.tally import Tally
from ingestion_pipeline.audit.work import audit_work


def run_audit(audit: Audit) -> Tally:
    """Look at everything, mend if the options say so; may run beside the pipeline, and be stopped at any time.

    Raises ConfigurationError, DatabaseUnavailableError or StoreUnavailableError.
    """
    audit.inventory.check()
    audit.objects.check()
    audit_work(audit)
    audit_documents(audit)
    audit_objects(audit)
    audit_partitions(audit)
    return audit.tally
