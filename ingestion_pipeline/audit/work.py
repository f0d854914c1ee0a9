"""Checks of the work itself: what was claimed and never given back, what nobody takes, what belongs to two."""

from collections.abc import Callable, Iterator
from functools import partial
from uuid import UUID

from ingestion_pipeline.audit.findings import Code, Finding
from ingestion_pipeline.audit.services import Audit
from ingestion_pipeline.domain import SETTLED, Failure
from ingestion_pipeline.errors import ClaimLostError
from ingestion_pipeline.inventory import Shared

MOST = 1000  # findings of a kind; what is over that shows up in the next audit

Found = tuple[Finding, Callable[[], bool] | None]


def audit_work(audit: Audit) -> None:
    """Adds to the audit's tally."""
    for check in (_claims, _batches, _standstills, _endless_parsing, _lonely_jobs, _shared):
        for finding, mend in check(audit):
            if finding.code in audit.options.codes:
                is_mended = audit.options.is_fixing and mend is not None and mend()
                audit.tally.add(finding, mended=is_mended)


def _claims(audit: Audit) -> Iterator[Found]:
    """Given back all at once, by the first; settled documents then wait for the reconcile sensor to tell of them."""
    returned: set[UUID] = set()

    def give_back(document_id: UUID) -> bool:
        if not returned:
            released = audit.documents.release_expired_claims()
            returned.update(released_id for released_id, _ in released)
            audit.inventory.mark_untold([released_id for released_id, state in released if state in SETTLED])
        return document_id in returned

    for document_id, claim, expired_at in audit.inventory.lost_claims(audit.options.grace_seconds, MOST):
        detail = f"{claim}, expired at {expired_at:%Y-%m-%d %H:%M}"
        yield Finding(Code.CLAIM_LOST, str(document_id), detail), partial(give_back, document_id)


def _batches(audit: Audit) -> Iterator[Found]:
    for batch_id, created_at in audit.inventory.unfinished_batches(audit.options.stall_seconds, MOST):
        finding = Finding(Code.BATCH_UNFINISHED, str(batch_id), f"of {created_at:%Y-%m-%d %H:%M}")
        yield finding, partial(audit.inventory.close_batch, batch_id)


def _standstills(audit: Audit) -> Iterator[Found]:
    for still in audit.inventory.standstills(audit.options.stall_seconds):
        subject = f"lane {still.lane}" if still.lane else "parse jobs"
        detail = f"{still.documents:,} documents, the first since {still.since:%Y-%m-%d %H:%M}"
        yield Finding(Code.WORK_STALLED, subject, detail), None


def _endless_parsing(audit: Audit) -> Iterator[Found]:
    def submit_anew(document_id: UUID, parse_job_id: str) -> bool:
        failure = Failure("parse_job_lost", "the parse job did not end", "parsed", transient=True)
        try:
            for document in audit.documents.load([document_id]):
                if document.parse_job_id == parse_job_id:
                    audit.documents.resubmit(document, None, failure, delay_seconds=0.0)
                    return True
        except ClaimLostError:  # it has ended in between
            return False
        return False

    for document_id, job_id, since in audit.inventory.endless_parse_jobs(audit.options.parsing_seconds, MOST):
        finding = Finding(Code.PARSING_ENDLESS, str(document_id), f"{job_id} since {since:%Y-%m-%d %H:%M}")
        yield finding, partial(submit_anew, document_id, job_id)


def _lonely_jobs(audit: Audit) -> Iterator[Found]:
    for document_id in audit.inventory.jobs_without_document(MOST):
        finding = Finding(Code.DOCUMENT_MISSING, str(document_id), "no row in documents")
        yield finding, partial(audit.inventory.drop_job_without_document, document_id)


def _shared(audit: Audit) -> Iterator[Found]:
    for code, things in (
        (Code.FILE_SHARED, audit.inventory.shared_files(MOST)),
        (Code.PARSE_JOB_SHARED, audit.inventory.shared_parse_jobs(MOST)),
    ):
        for thing in things:
            yield _of_several(code, thing), None


def _of_several(code: Code, thing: Shared) -> Finding:
    return Finding(code, thing.subject, "documents " + ", ".join(map(str, thing.document_ids[:5])))
