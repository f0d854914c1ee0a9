"""What the reconcile sensor does: asks for parse jobs whose webhook never came, returns the documents of dead runs,
stops at the parser what was cancelled here.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from ingestion_pipeline.domain import SETTLED, State, VendorHealth
from ingestion_pipeline.errors import ClaimLostError, IngestionError, ParseJobLostError
from ingestion_pipeline.pipeline.failures import classify
from ingestion_pipeline.pipeline.report import Asset
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.ports import Cancellation

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Reconciled:
    """Counts; the settled documents whose run died before it could tell Dagster of them; those that were cancelled;
    vendors whose circuit breaker is not closed.
    """

    parse_jobs_ended: int = 0
    parse_jobs_running: int = 0
    parse_jobs_lost: int = 0
    parse_polls_failed: int = 0
    claims_returned: int = 0
    parse_jobs_cancelled: int = 0
    untold: list[UUID] = field(default_factory=list)
    cancelled: list[UUID] = field(default_factory=list)
    ill: list[VendorHealth] = field(default_factory=list)


def reconcile(services: Services) -> Reconciled:
    """One pass. A parser that does not answer costs one call, and the pass goes on another time."""
    result = Reconciled()
    for document_id, state in services.documents.release_expired_claims():
        result.claims_returned += 1
        if state in SETTLED:
            result.untold.append(document_id)
    overdue = services.documents.overdue_parse_jobs(
        max_documents=services.limits.batch_documents, poll_seconds=services.limits.parse_poll_seconds
    )
    _poll(overdue, services, result)
    _follow_cancellations(services, result)
    result.ill = [health for health in services.vendors.health() if health.state != "closed"]
    return result


def _poll(overdue: Sequence[tuple[UUID, str]], services: Services, result: Reconciled) -> None:
    for document_id, parse_job_id in overdue:
        try:
            job = services.parser.status(parse_job_id)
        except ParseJobLostError as error:
            _resubmit(document_id, error, services)
            result.parse_jobs_lost += 1
        except IngestionError as error:
            log.warning(
                "parse job could not be asked for", document_id=str(document_id), code=error.code, reason=error.message
            )
            result.parse_polls_failed += 1
            if error.transient:
                return
        else:
            if job.outcome is None:
                result.parse_jobs_running += 1
            elif services.documents.parse_ended(parse_job_id, job.outcome):
                log.info("parse job ended without a webhook", document_id=str(document_id), outcome=job.outcome.value)
                result.parse_jobs_ended += 1


def _resubmit(document_id: UUID, error: ParseJobLostError, services: Services) -> None:
    for document in services.documents.load([document_id]):
        with contextlib.suppress(ClaimLostError):  # its webhook has come in between after all
            services.documents.resubmit(document, None, classify(error, Asset.PARSED.value), delay_seconds=0.0)


def _follow_cancellations(services: Services, result: Reconciled) -> None:
    followed: list[UUID] = []
    for cancellation in services.documents.due_cancellations(
        max_documents=services.limits.batch_documents, again_seconds=services.limits.parse_poll_seconds
    ):
        try:
            result.parse_jobs_cancelled += cancellation.is_at_parser and _cancel_parse_job(cancellation, services)
        except IngestionError as error:
            log.warning(
                "parse job could not be cancelled",
                document_id=str(cancellation.document_id),
                code=error.code,
                reason=error.message,
            )
            if error.transient:
                break  # what is left comes again
        services.documents.settle_cancellation(cancellation)
        followed.append(cancellation.document_id)
    now = services.documents.load(followed)  # one that was taken up again is none any more
    result.cancelled += [document.document_id for document in now if document.state is State.CANCELLED]


def _cancel_parse_job(cancellation: Cancellation, services: Services) -> bool:
    """Whether there was a job to cancel."""
    job_id = cancellation.parse_job_id
    if job_id is None:
        job = services.parser.find(cancellation.document_id, cancellation.parse_round)
        job_id = job.job_id if job else None
    if job_id is None:
        return False
    services.parser.cancel(job_id)
    log.info("parse job cancelled", document_id=str(cancellation.document_id), parse_job_id=job_id)
    return True
