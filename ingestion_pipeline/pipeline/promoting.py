"""The finalized asset: what is buffered becomes what search serves, a group in one transaction, checked within it."""

import time
from collections.abc import Sequence
from uuid import UUID

from ingestion_pipeline.domain import CheckResult, Document
from ingestion_pipeline.pipeline.failures import require_passed
from ingestion_pipeline.pipeline.groups import Group
from ingestion_pipeline.pipeline.report import Asset, Metadata, StageReport, Verdict
from ingestion_pipeline.ports import PromotionFacts
from ingestion_pipeline.stages.finalize import check_promotion


def promote(group: Group, documents: Sequence[Document]) -> None:
    """Nothing of a document is promoted if what is served would differ from what was buffered."""
    started = time.monotonic()
    cut = {document.document_id: document.chunk_count or 0 for document in documents}
    found: dict[UUID, tuple[PromotionFacts, CheckResult]] = {}

    def accept(document_id: UUID, facts: PromotionFacts) -> None:
        check = check_promotion(facts, cut[document_id])
        require_passed([check])
        found[document_id] = facts, check

    def write(wanted: Sequence[Document]) -> None:
        document_ids = [document.document_id for document in wanted]
        group.services.documents.promote(group.crew.claim, document_ids, group.services.embedder.model, accept)

    for document in group.together(write, documents, lambda document: document, Asset.FINALIZED):
        facts, check = found[document.document_id]
        metadata: Metadata = {
            "filename": document.filename,
            "pages": document.page_count or 0,
            "chunks": facts.served_chunks,
            "tokens": facts.tokens,
            "content_sha256": (facts.content_sha256 or b"").hex(),
            "seconds": round(time.monotonic() - started, 3),
        }
        group.reports.append(StageReport(document.document_id, Asset.FINALIZED, Verdict.DONE, metadata, (check,)))
