"""Dagster's partitions against the documents: what an operator sees there is to be what the database says."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from ingestion_pipeline.audit.findings import Code, Finding
from ingestion_pipeline.audit.services import Audit
from ingestion_pipeline.domain import DEAD_LETTERS, State
from ingestion_pipeline.inventory import DocumentFacts, Mend, PartitionBook, Told

PAGE = 500
LAST_ASSET = "finalized"


def check_partitions(audit: Audit, documents: Sequence[DocumentFacts]) -> dict[UUID, list[Finding]]:
    """Findings of settled documents that nobody has and that settled long enough ago for Dagster to have been told."""
    book = audit.partitions
    if book is None or not audit.wants(Code.PARTITION_MISSING, Code.PARTITION_UNTOLD):
        return {}
    settled = {
        str(facts.document_id): facts
        for facts in documents
        if (facts.state is State.COMPLETE or facts.state in DEAD_LETTERS)
        and not facts.is_claimed
        and not facts.is_retired
        and (facts.unchanged_seconds or 0) > audit.options.grace_seconds
    }
    if not settled:
        return {}
    found: dict[UUID, list[Finding]] = {}
    registered = book.registered(list(settled))
    shown = _shown(book, [facts for key, facts in settled.items() if key in registered])
    for key, facts in settled.items():
        expected = Told.DONE if facts.state is State.COMPLETE else Told.FAILED
        if key not in registered:
            finding = Finding(Code.PARTITION_MISSING, key, f"the document is {facts.state}", Mend.RETELL)
        elif shown.get(key) is not expected:
            detail = f"the document is {facts.state}, {_asset(facts)} shows {shown.get(key, 'nothing')}"
            finding = Finding(Code.PARTITION_UNTOLD, key, detail, Mend.RETELL)
        else:
            continue
        found[facts.document_id] = [finding]
    return found


def retell(audit: Audit, document_id: UUID) -> bool:
    """Make the partition if there is none, and mark the document for the reconcile sensor."""
    if audit.partitions is None:
        return False
    audit.partitions.register([str(document_id)])
    return document_id in audit.inventory.mark_untold([document_id])


def audit_partitions(audit: Audit) -> None:
    """Partitions of documents that do not exist. Adds to the audit's tally."""
    book = audit.partitions
    if book is None or not audit.wants(Code.PARTITION_ORPHANED):
        return
    for keys in book.pages(PAGE):
        orphans = _without_document(audit, keys)
        for key in _without_document(audit, orphans) if orphans else []:
            if audit.options.is_fixing:
                book.forget(key)
            audit.tally.add(Finding(Code.PARTITION_ORPHANED, key, "no such document"), mended=audit.options.is_fixing)
        audit.tally.advance("partitions", len(keys))


def _without_document(audit: Audit, keys: Sequence[str]) -> list[str]:
    known = audit.inventory.existing([document_id for key in keys if (document_id := _document_id(key))])
    return [key for key in keys if _document_id(key) not in known]


def _document_id(key: str) -> UUID | None:
    try:
        return UUID(key)
    except ValueError:
        return None


def _shown(book: PartitionBook, documents: Sequence[DocumentFacts]) -> dict[str, Told]:
    by_asset: dict[str, list[str]] = defaultdict(list)
    for facts in documents:
        by_asset[_asset(facts)].append(str(facts.document_id))
    return {key: told for asset, keys in by_asset.items() for key, told in book.told(asset, keys).items()}


def _asset(facts: DocumentFacts) -> str:
    """Where Dagster shows what became of a document."""
    return LAST_ASSET if facts.state is State.COMPLETE else facts.last_error_stage or LAST_ASSET
