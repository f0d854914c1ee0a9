"""The parsed and the chunks asset of one document."""

import time

from ingestion_pipeline.domain import Document, ParsedText, ParseOutcome
from ingestion_pipeline.errors import CheckFailedError, ParseJobLostError
from ingestion_pipeline.pipeline.report import Asset, StageReport, Verdict
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.stages.chunk import check_coverage, chunk
from ingestion_pipeline.stages.normalise import check_parsed, normalise

PREVIEW_CHARACTERS = 600


def store_parsed(document: Document, claim: str, services: Services) -> StageReport:
    """Fetch the parser's result, normalise and check it, store it. Raises the parser's failure of this document."""
    started = time.monotonic()
    job_id = document.parse_job_id
    if job_id is None:
        raise ParseJobLostError("the document has no parse job")
    if document.parse_outcome not in (ParseOutcome.SUCCESS, ParseOutcome.PARTIAL_SUCCESS):
        raise services.parser.failure(services.parser.status(job_id))
    parsed = normalise(services.parser.pages(job_id))
    key = parsed_key(document)
    services.objects.put(key, parsed.text.encode())
    check = check_parsed(load_parsed(document, key, parsed, services), parsed.sha256)
    if not check.passed:
        raise CheckFailedError(check.message)
    services.documents.parsed(document, claim, key, parsed)
    metadata = {
        "filename": document.filename,
        "pages": len(parsed.page_numbers),
        "failed_pages": len(parsed.failed_pages),
        "characters": len(parsed.text),
        "removed_characters": parsed.removed_characters,
        "seconds": round(time.monotonic() - started, 3),
    }
    preview = parsed.text[:PREVIEW_CHARACTERS]
    return StageReport(document.document_id, Asset.PARSED, Verdict.DONE, metadata, (check,), preview=preview)


def store_chunks(document: Document, claim: str, services: Services) -> StageReport:
    """Cut the stored text into chunks, check that they rebuild it, put them into the buffer."""
    started = time.monotonic()
    parsed = stored_text(document, services)
    chunks = chunk(document.document_id, parsed)
    check = check_coverage(parsed, chunks)
    if not check.passed:
        raise CheckFailedError(check.message)
    services.documents.chunks_stored(document, claim, chunks)
    tokens = sum(piece.token_count for piece in chunks)
    metadata = {
        "filename": document.filename,
        "chunks": len(chunks),
        "tokens": tokens,
        "tokens_a_chunk": round(tokens / len(chunks), 1),
        "seconds": round(time.monotonic() - started, 3),
    }
    preview = chunks[0].text[:PREVIEW_CHARACTERS]
    return StageReport(document.document_id, Asset.CHUNKS, Verdict.DONE, metadata, (check,), preview=preview)
