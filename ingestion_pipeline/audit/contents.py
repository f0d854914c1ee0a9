"""Checks of one document's objects: the uploaded file, the parsed text, and whether the chunks rebuild that text."""

import hashlib
from collections.abc import Iterator

from ingestion_pipeline.audit.findings import Code, Finding
from ingestion_pipeline.audit.pace import Pace
from ingestion_pipeline.audit.rows import BUFFERED
from ingestion_pipeline.domain import Chunk, ParsedText, State, chunk_id_for, sha256_of_bytes
from ingestion_pipeline.errors import IngestionError, ObjectMissingError
from ingestion_pipeline.inventory import ChunkMark, DocumentFacts, Inventory, Mend
from ingestion_pipeline.ports import ObjectStore
from ingestion_pipeline.stages.chunk import check_coverage, check_order
from ingestion_pipeline.stages.normalise import validate

WITH_TEXT = BUFFERED | {State.PARSE_VALIDATED, State.COMPLETE, State.FAILED_CHUNKING}


def check_file(facts: DocumentFacts, objects: ObjectStore, pace: Pace) -> Iterator[Finding]:
    """The uploaded file against its size and SHA-256, read in parts."""
    digest, size = hashlib.sha256(), 0
    try:
        for part in objects.stream(facts.object_key):
            pace.spend(len(part))
            digest.update(part)
            size += len(part)
    except ObjectMissingError:
        yield Finding(Code.RAW_MISSING, str(facts.document_id), facts.object_key)
    except IngestionError as error:
        yield Finding(Code.OBJECT_UNREADABLE, str(facts.document_id), error.message)
    else:
        if size != facts.size_bytes:
            yield Finding(Code.RAW_ALTERED, str(facts.document_id), f"{size:,} bytes, recorded {facts.size_bytes:,}")
        elif digest.digest() != facts.sha256:
            yield Finding(Code.RAW_ALTERED, str(facts.document_id), "the SHA-256 differs")


def check_text(facts: DocumentFacts, inventory: Inventory, objects: ObjectStore, pace: Pace) -> Iterator[Finding]:
    """The parsed text, held whole in memory, against its SHA-256 and pages, and the chunks against the text."""
    if facts.state not in WITH_TEXT:
        return
    subject = str(facts.document_id)
    if facts.parsed_key is None or facts.parsed_sha256 is None:
        yield Finding(Code.TEXT_MISSING, subject, "no text is recorded", Mend.REPARSE)
        return
    try:
        data = objects.get(facts.parsed_key)
        pace.spend(len(data))
        parsed = ParsedText(data.decode(), facts.page_numbers, facts.page_starts)
    except ObjectMissingError:
        yield Finding(Code.TEXT_MISSING, subject, facts.parsed_key, Mend.REPARSE)
    except UnicodeDecodeError:
        yield Finding(Code.TEXT_ALTERED, subject, "it is not UTF-8", Mend.REPARSE)
    except IngestionError as error:
        yield Finding(Code.OBJECT_UNREADABLE, subject, error.message)
    else:
        checks = validate(parsed, sha256_of_bytes(data), facts.parsed_sha256)
        problems = [check.message for check in checks if not check.passed]
        if problems:
            yield Finding(Code.TEXT_ALTERED, subject, " ".join(problems), Mend.REPARSE)
        elif facts.state is State.COMPLETE or facts.state in BUFFERED:
            yield from _check_chunks(facts, parsed, inventory)


def _check_chunks(facts: DocumentFacts, parsed: ParsedText, inventory: Inventory) -> Iterator[Finding]:
    marks = inventory.marks(facts.document_id, served=facts.state is State.COMPLETE)
    chunks = [_piece(facts, mark, parsed.text) for mark in marks]
    problems = [check.message for check in (check_coverage(parsed, chunks), check_order(chunks)) if not check.passed]
    if problems:
        yield Finding(Code.CHUNKS_DIFFER_FROM_TEXT, str(facts.document_id), " ".join(problems), Mend.REBUILD)


def _piece(facts: DocumentFacts, mark: ChunkMark, text: str) -> Chunk:
    """What the text has where a chunk says that it lies; the chunk's own text is held against its hash by the rows."""
    return Chunk(
        chunk_id=chunk_id_for(facts.document_id, mark.ordinal),
        ordinal=mark.ordinal,
        text=text[mark.start : mark.end],
        sha256=mark.sha256,
        start=mark.start,
        end=mark.end,
        first_page=0,
        last_page=0,
        heading_path=(),
        token_count=0,
    )
