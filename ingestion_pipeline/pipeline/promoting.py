"""The finalized asset of one document: the buffers become what search serves, in one transaction, checked within it."""

import time

from ingestion_pipeline.domain import CheckResult, Document
from ingestion_pipeline.pipeline.failures import require_passed
from ingestion_pipeline.pipeline.report import Asset, Metadata, StageReport, Verdict
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.ports import PromotionFacts
from ingestion_pipeline.stages.finalize import check_promotion


def promote(document: Document, claim: str, services: Services) -> StageReport:
    """Raises FailedChecksError, with nothing promoted, if what is served would differ from what was buffered."""
    started = time.monotonic()
    found: list[tuple[PromotionFacts, CheckResult]] = []

    def accept(facts: PromotionFacts) -> None:
        check = check_promotion(facts, document.chunk_count or 0)
        require_passed([check])
        found.append((facts, check))

    services.documents.promote(document, claim, services.embedder.model, accept)
    facts, check = found[0]
    metadata: Metadata = {
        "filename": document.filename,
        "pages": document.page_count or 0,
        "chunks": facts.served_chunks,
        "tokens": facts.tokens,
        "content_sha256": (facts.served_sha256 or b"").hex(),
        "seconds": round(time.monotonic() - started, 3),
    }
    return StageReport(document.document_id, Asset.FINALIZED, Verdict.DONE, metadata, (check,))
