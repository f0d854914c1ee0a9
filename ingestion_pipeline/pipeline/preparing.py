"""The parsed and the chunks asset of one document."""

import time

from ingestion_pipeline.domain import Document, ParsedText, ParseOutcome
from ingestion_pipeline.errors import IntegrityError, ParseJobLostError
from ingestion_pipeline.pipeline.failures import require_passed
from ingestion_pipeline.pipeline.report import Asset, Metadata, StageReport, Verdict
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.stages import chunk as chunking
from ingestion_pipeline.stages import normalise as normalising

PREVIEW_CHARACTERS = 600


def store_parsed(document: Document, claim: str, services: Services) -> StageReport:
    """Fetch the parser's result, normalise it, store it, read it back and check it.

    Raises the parser's own failure of this document, and CheckFailedError.
    """
    started = time.monotonic()
    job_id = document.parse_job_id
    if job_id is None:
        raise ParseJobLostError("the document has no parse job")
    if document.parse_outcome not in (ParseOutcome.SUCCESS, ParseOutcome.PARTIAL_SUCCESS):
        raise services.parser.failure(services.parser.status(job_id))
    parsed = normalising.normalise(services.parser.pages(job_id))
    key = parsed_key(document)
    services.objects.put(key, parsed.text.encode())
    stored = ParsedText(services.objects.get(key).decode(), parsed.page_numbers, parsed.page_starts)
    checks = require_passed(normalising.validate(stored, parsed.sha256))
    bill = services.parser.bill(document.document_id, len(parsed.page_numbers) + len(parsed.failed_pages))
    services.documents.parsed(document, claim, key, parsed, bill)
    metadata: Metadata = {
        "filename": document.filename,
        "pages": len(parsed.page_numbers),
        "failed_pages": len(parsed.failed_pages),
        "characters": len(parsed.text),
        "removed_characters": parsed.removed_characters,
        "seconds": round(time.monotonic() - started, 3),
    }
    preview = parsed.text[:PREVIEW_CHARACTERS]
    return StageReport(document.document_id, Asset.PARSED, Verdict.DONE, metadata, checks, preview=preview)


def store_chunks(document: Document, claim: str, services: Services) -> StageReport:
    """Cut the stored text into chunks, check that they rebuild it, buffer them. Raises CheckFailedError."""
    started = time.monotonic()
    parsed = _stored_text(document, services)
    chunks = chunking.chunk(document.document_id, parsed)
    checks = require_passed(chunking.validate(parsed, chunks))
    services.documents.chunks_stored(document, claim, chunks)
    tokens = sum(piece.token_count for piece in chunks)
    metadata: Metadata = {
        "filename": document.filename,
        "chunks": len(chunks),
        "tokens": tokens,
        "tokens_a_chunk": round(tokens / len(chunks), 1),
        "seconds": round(time.monotonic() - started, 3),
    }
    preview = chunks[0].text[:PREVIEW_CHARACTERS]
    return StageReport(document.document_id, Asset.CHUNKS, Verdict.DONE, metadata, checks, preview=preview)


def parsed_key(document: Document) -> str:
    """Where the normalised text of a document lies in the object store."""
    return f"parsed/{document.owner_id}/{document.document_id}.md"


def _stored_text(document: Document, services: Services) -> ParsedText:
    """The text as it was stored. Raises IntegrityError if it is not what was recorded."""
    if document.parsed_key is None or document.parsed_sha256 is None:
        raise IntegrityError("the document has no parsed text")
    parsed = ParsedText(
        services.objects.get(document.parsed_key).decode(),
        document.page_numbers,
        document.page_starts,
        document.failed_pages,
    )
    check = normalising.check_text_hash(parsed, document.parsed_sha256)
    if not check.passed:
        raise IntegrityError(check.message)
    return parsed
