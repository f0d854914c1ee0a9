"""The parsed and the chunks asset of a group of documents."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from ingestion_pipeline.domain import CheckResult, Document, ParsedText, ParseOutcome, State, sha256_of_bytes
from ingestion_pipeline.errors import IntegrityError, ParseJobLostError
from ingestion_pipeline.pipeline.embedding import AtHand, texts_at_hand
from ingestion_pipeline.pipeline.failures import require_passed
from ingestion_pipeline.pipeline.freed_memory import give_back
from ingestion_pipeline.pipeline.groups import Group
from ingestion_pipeline.pipeline.report import Asset, Metadata, StageReport, Verdict
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.ports import ChunkResult, ParseResult
from ingestion_pipeline.stages import chunk as chunking
from ingestion_pipeline.stages import normalise as normalising
from ingestion_pipeline.stages.sliced_chunks import SlicedChunks

PREVIEW_CHARACTERS = 600
LARGE_BYTES = 4_000_000  # a text of more is not kept twice

Result = TypeVar("Result", ParseResult, ChunkResult)


@dataclass(frozen=True, slots=True)
class _Done(Generic[Result]):
    """What a stage made of a document, to be written with the others' of the group."""

    result: Result
    checks: tuple[CheckResult, ...]
    seconds: float

    @property
    def document(self) -> Document:
        return self.result.document


def store_parsed(group: Group, documents: Sequence[Document]) -> list[ParseResult]:
    """Fetch the parser's results, normalise them, store them, read them back and check them."""
    made = group.each(lambda document: _fetch(document, group.services), documents, _itself, Asset.PARSED)

    def write(done: Sequence[_Done[ParseResult]]) -> None:
        group.services.objects.sync([each.result.parsed_key for each in done])
        group.services.documents.parsed(group.crew.claim, [each.result for each in done])

    written = group.together(write, made, lambda each: each.document, Asset.PARSED)
    results = []
    for done in written:
        parsed = done.result.parsed
        metadata: Metadata = {
            "filename": done.document.filename,
            "pages": len(parsed.page_numbers),
            "failed_pages": len(parsed.failed_pages),
            "characters": len(parsed.text),
            "removed_characters": parsed.removed_characters,
            "cost_usd": float(done.result.bill.cost_usd) if done.result.bill else 0.0,
            "seconds": done.seconds,
        }
        preview = parsed.text[:PREVIEW_CHARACTERS]
        group.reports.append(
            StageReport(done.document.document_id, Asset.PARSED, Verdict.DONE, metadata, done.checks, preview=preview)
        )
        document = replace(
            done.document,
            state=State.PARSE_VALIDATED,
            attempt=0,
            page_count=len(parsed.page_numbers) + len(parsed.failed_pages),
        )
        results.append(replace(done.result, document=document))
    return results


def stored_texts(group: Group, documents: Sequence[Document]) -> list[ParseResult]:
    """The texts that earlier runs stored."""
    return group.each(lambda document: _stored_text(document, group.services), documents, _itself, Asset.CHUNKS)


def store_chunks(group: Group, texts: Sequence[ParseResult]) -> tuple[list[Document], AtHand]:
    """Cut the texts into chunks, check that they rebuild them, buffer them."""
    made = group.in_turn(_cut, texts, lambda text: text.document, Asset.CHUNKS)
    at_hand: AtHand = {}

    def write(done: Sequence[_Done[ChunkResult]]) -> None:
        results = [each.result for each in done]
        embedded = group.services.documents.chunks_stored(group.crew.claim, results)
        at_hand.update(texts_at_hand([each for each in results if each.document.document_id not in embedded]))

    written = group.together(write, made, lambda each: each.document, Asset.CHUNKS)
    documents = []
    for done in written:
        chunks = done.result.chunks
        tokens = sum(piece.token_count for piece in chunks)
        metadata: Metadata = {
            "filename": done.document.filename,
            "chunks": len(chunks),
            "tokens": tokens,
            "tokens_a_chunk": round(tokens / len(chunks), 1),
            "seconds": done.seconds,
        }
        preview = chunks[0].text[:PREVIEW_CHARACTERS]
        group.reports.append(
            StageReport(done.document.document_id, Asset.CHUNKS, Verdict.DONE, metadata, done.checks, preview=preview)
        )
        documents.append(
            replace(done.document, state=State.CHUNKS_STORED, attempt=0, chunk_count=len(chunks), token_count=tokens)
        )
    return documents, at_hand


def parsed_key(document: Document) -> str:
    """Where the normalised text of a document lies in the object store."""
    return f"parsed/{document.owner_id}/{document.document_id}.md"


def _itself(document: Document) -> Document:
    return document


def _fetch(document: Document, services: Services) -> _Done[ParseResult]:
    """Raises the parser's own failure of this document, and FailedChecksError."""
    started = time.monotonic()
    job_id = document.parse_job_id
    if job_id is None:
        raise ParseJobLostError("the document has no parse job")
    if document.parse_outcome not in (ParseOutcome.SUCCESS, ParseOutcome.PARTIAL_SUCCESS):
        raise services.parser.failure(services.parser.status(job_id))
    encoded = normalising.normalise_encoded(services.parser.pages(job_id))
    if len(encoded.data) > LARGE_BYTES:
        give_back()  # the pages
    key, recorded = parsed_key(document), encoded.sha256
    services.objects.put(key, encoded.data, is_synced=False)
    encoded = replace(encoded, data=services.objects.get(key))
    parsed, found = encoded.decoded(), encoded.sha256
    del encoded  # of a large document a third of what is in memory
    checks = require_passed(normalising.validate(parsed, found, recorded))
    bill = services.parser.bill(document.document_id, len(parsed.page_numbers) + len(parsed.failed_pages))
    return _Done(ParseResult(document, key, recorded, parsed, bill), checks, round(time.monotonic() - started, 3))


def _cut(text: ParseResult) -> _Done[ChunkResult]:
    """Raises FailedChecksError."""
    started = time.monotonic()
    found = chunking.iter_chunks(text.document.document_id, text.parsed)
    chunks = SlicedChunks(text.parsed.text, found) if len(text.parsed.text) > LARGE_BYTES else list(found)
    checks = require_passed(chunking.validate(text.parsed, chunks))
    return _Done(ChunkResult(text.document, chunks), checks, round(time.monotonic() - started, 3))


def _stored_text(document: Document, services: Services) -> ParseResult:
    """The text as it was stored. Raises IntegrityError if it is not what was recorded."""
    if document.parsed_key is None or document.parsed_sha256 is None:
        raise IntegrityError("the document has no parsed text")
    data = services.objects.get(document.parsed_key)
    check = normalising.check_text_hash(sha256_of_bytes(data), document.parsed_sha256)
    if not check.passed:
        raise IntegrityError(check.message)
    parsed = ParsedText(data.decode(), document.page_numbers, document.page_starts, document.failed_pages)
    return ParseResult(document, document.parsed_key, document.parsed_sha256, parsed)
