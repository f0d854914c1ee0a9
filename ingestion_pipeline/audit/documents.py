"""Walks all documents in the order of their ids: looks, looks again at what seems wrong, mends what is still so.

A document that a run has, or that moved between the two looks, is counted as at work and left alone: what seemed wrong
may have been a moment of its way.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from ingestion_pipeline.audit.contents import check_file, check_text
from ingestion_pipeline.audit.findings import Code, Finding
from ingestion_pipeline.audit.partitions import check_partitions, retell
from ingestion_pipeline.audit.rows import check_rows
from ingestion_pipeline.audit.services import Audit
from ingestion_pipeline.errors import StoreUnavailableError
from ingestion_pipeline.inventory import DocumentFacts, Mend

GROUP_DOCUMENTS = 100
GROUP_BYTES = 64 << 20
LARGE_BYTES = 8 << 20  # texts of such documents are held one at a time
OF_FILES = (Code.RAW_MISSING, Code.RAW_ALTERED, Code.OBJECT_UNREADABLE)
OF_TEXTS = (Code.TEXT_MISSING, Code.TEXT_ALTERED, Code.OBJECT_UNREADABLE, Code.CHUNKS_DIFFER_FROM_TEXT)
WAYS_BACK = (Mend.REPARSE, Mend.REBUILD, Mend.REEMBED)  # the farthest includes the others

Examined = dict[UUID, tuple[DocumentFacts, list[Finding]]]


def audit_documents(audit: Audit) -> None:
    """Adds to the audit's tally. Raises StoreUnavailableError if no object of a whole group can be read."""
    total = audit.inventory.count_documents()
    with ThreadPoolExecutor(audit.options.concurrency, thread_name_prefix="audit") as pool:
        for group in _groups(audit):
            seen = _examine(audit, group, pool)
            suspicious = {document_id: found for document_id, found in seen.items() if found[1]}
            if suspicious:
                _refuse_a_store_that_is_away(seen)
                _judge(audit, suspicious, _examine(audit, list(suspicious), pool))
            audit.tally.advance("documents", len(group), total)


def _groups(audit: Audit) -> Iterator[list[UUID]]:
    """Ids in portions of so many documents and bytes; a larger document is one alone."""
    group: list[UUID] = []
    group_bytes = 0
    after: UUID | None = None
    while page := audit.inventory.documents_after(after, GROUP_DOCUMENTS):
        for document_id, size in page:
            if group and (len(group) == GROUP_DOCUMENTS or group_bytes + size > GROUP_BYTES):
                yield group
                group, group_bytes = [], 0
            group.append(document_id)
            group_bytes += size
        after = page[-1][0]
    if group:
        yield group


def _examine(audit: Audit, document_ids: Sequence[UUID], pool: ThreadPoolExecutor) -> Examined:
    """The documents as they are now, with what is asked for and found; those that are gone are left out."""
    documents = audit.inventory.facts(document_ids)
    small = [facts for facts in documents if facts.size_bytes <= LARGE_BYTES]
    futures = {facts.document_id: pool.submit(_contents, audit, facts) for facts in small}
    told = check_partitions(audit, documents)
    examined: Examined = {}
    for facts in documents:
        found = [*check_rows(facts, audit.model), *told.get(facts.document_id, [])]
        wanted = [finding for finding in found if finding.code in audit.options.codes]
        future = futures.get(facts.document_id)
        wanted += future.result() if future else _contents(audit, facts)
        examined[facts.document_id] = (facts, wanted)
    return examined


def _contents(audit: Audit, facts: DocumentFacts) -> list[Finding]:
    """What is asked for; the file is also looked at where a lost text would have to be made from it."""
    found: list[Finding] = []
    if audit.wants(*OF_TEXTS):
        of_text = check_text(facts, audit.inventory, audit.objects, audit.pace)
        found += [finding for finding in of_text if finding.code in audit.options.codes]
    if audit.wants(*OF_FILES) or any(finding.mend is Mend.REPARSE for finding in found):
        found += check_file(facts, audit.objects, audit.pace)
    return found


def _refuse_a_store_that_is_away(seen: Examined) -> None:
    unreadable = [
        [finding.detail for finding in found if finding.code is Code.OBJECT_UNREADABLE] for _, found in seen.values()
    ]
    if len(unreadable) > 1 and all(unreadable):
        raise StoreUnavailableError(unreadable[0][0])


def _judge(audit: Audit, first: Examined, second: Examined) -> None:
    for document_id, (facts, found) in second.items():
        before, found_before = first[document_id]
        codes = {finding.code for finding in found_before}
        confirmed = [finding for finding in found if finding.code in codes]
        if facts.is_claimed or facts.state_changed_at != before.state_changed_at:
            audit.tally.at_work += 1
            continue
        mended = _mend(audit, facts, confirmed) if audit.options.is_fixing and confirmed else set()
        for finding in confirmed:
            audit.tally.add(finding, mended=finding.mend in mended)


def _mend(audit: Audit, facts: DocumentFacts, findings: Sequence[Finding]) -> set[Mend]:
    """Returns what was mended; nothing if somebody has taken the document by now."""
    mends, covered = plan(findings)
    rows = [mend for mend in mends if mend is not Mend.RETELL]
    if rows:
        codes = ", ".join(sorted({finding.code.value for finding in findings if finding.mend}))
        if not audit.inventory.mend(facts, rows, f"the audit found {codes}"):
            return set()
    if Mend.RETELL in mends and not retell(audit, facts.document_id):
        covered.discard(Mend.RETELL)
    return covered


def plan(findings: Sequence[Finding]) -> tuple[list[Mend], set[Mend]]:
    """What to do about a document's findings, and what that mends.

    Of the ways back only the farthest is gone, and it ends with Dagster being told. A document whose file is lost can't
    be parsed anew.
    """
    wanted = {finding.mend for finding in findings if finding.mend}
    is_lost = any(finding.code in OF_FILES and finding.mend is None for finding in findings)
    if is_lost and Mend.REPARSE in wanted:
        wanted -= set(WAYS_BACK)  # nothing is left to go back to
    way_back = [mend for mend in WAYS_BACK if mend in wanted][:1]
    others = [mend for mend in Mend if mend in wanted and mend not in WAYS_BACK]
    if way_back:
        others = [mend for mend in others if mend is not Mend.RETELL]
    return [*others, *way_back], wanted
