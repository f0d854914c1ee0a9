"""raw_upload: verify what was uploaded against its row and hand it to the parser."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import structlog

from ingestion_pipeline.domain import CheckResult, Document, ParseJob
from ingestion_pipeline.errors import PermanentError
from ingestion_pipeline.pipeline.failures import in_log, settle
from ingestion_pipeline.pipeline.report import Asset, Metadata, StageReport, Verdict
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.ports import ParseRequest
from ingestion_pipeline.stages.verify import UploadVerifier, expect

log = structlog.get_logger(__name__)


def submit_documents(
    documents: Sequence[Document], claim: str, services: Services, stopping: threading.Event
) -> Iterator[StageReport]:
    """Submit each document; one report each, as they are done.

    Once `stopping` is set what is not begun goes back at once. The others are waited for, lest a job that is made and
    not written down is made again; if the process is killed, their claims expire, and the next try looks for the job.
    """
    with ThreadPoolExecutor(services.limits.concurrency, thread_name_prefix="submit") as pool:

        def submit(document: Document) -> StageReport:
            if stopping.is_set():
                services.documents.release_claim(claim, [document.document_id])
                note: Metadata = {"note": "the run was told to stop before it came to this document"}
                return StageReport(document.document_id, Asset.RAW_UPLOAD, Verdict.WAITING, note)
            with in_log(document):
                return _submit(document, claim, services)

        futures = [pool.submit(submit, document) for document in documents]
        for future in as_completed(futures):
            yield future.result()


def _submit(document: Document, claim: str, services: Services) -> StageReport:
    started = time.monotonic()
    try:
        _verify(document, services)
        services.documents.expect_held(claim, [document.document_id])
        job = _parse_job(document, services)
        services.documents.parse_submitted(document, claim, job.job_id, services.limits.parse_poll_seconds)
        log.info("submitted", parse_job_id=job.job_id)
    except Exception as error:  # noqa: BLE001 - the one place that classifies errors of this stage; bugs become dead letters
        return settle(services, document, claim, Asset.RAW_UPLOAD, error)
    metadata = {**upload_facts(document), "parse_job": job.job_id, "seconds": round(time.monotonic() - started, 3)}
    return StageReport(document.document_id, Asset.RAW_UPLOAD, Verdict.DONE, metadata, (upload_check(document),))


def upload_check(document: Document) -> CheckResult:
    """What the verification found; without it the document would not have left the state uploaded."""
    return CheckResult(
        name="upload_is_intact",
        passed=True,
        message="size, SHA-256 and type are those that the API recorded",
        facts={"size_bytes": document.size_bytes},
    )


def _verify(document: Document, services: Services) -> None:
    verifier = UploadVerifier(document.filename, document.content_type, services.limits.max_upload_bytes)
    for part in services.objects.stream(document.object_key):
        verifier.feed(part)
    expect(verifier.finish(), document.size_bytes, document.sha256)


def _parse_job(document: Document, services: Services) -> ParseJob:
    """The job of an earlier attempt whose answer was lost, or a new one."""
    if document.parse_round > services.limits.max_attempts:
        lost = document.parse_round - 1
        raise PermanentError(f"the parser lost {lost} jobs of this document", code="parse_jobs_lost")
    if document.attempt > 0:
        found = services.parser.find(document.document_id, document.parse_round)
        if found is not None:
            return found
    for refusal in services.budgets.refused([document]).values():
        raise refusal
    return services.parser.submit(
        ParseRequest(
            document_id=document.document_id,
            correlation_id=document.correlation_id,
            attempt=document.parse_round,
            filename=document.filename,
            content_type=document.content_type,
            parts=services.objects.stream(document.object_key),
        )
    )


def upload_facts(document: Document) -> Metadata:
    """What the raw_upload asset shows of a document."""
    return {
        "filename": document.filename,
        "content_type": document.content_type,
        "size_bytes": document.size_bytes,
        "sha256": document.sha256.hex(),
        "correlation_id": str(document.correlation_id),
    }
