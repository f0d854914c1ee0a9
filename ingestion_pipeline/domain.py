"""The words of the project: states, frozen records and deterministic ids. Imports nothing of ours."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from itertools import count, pairwise
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID, uuid4, uuid5

NAMESPACE = UUID("6f1f3c52-9d0e-5a7b-8c44-1d2f8a90b7e1")
CHUNKER = "markdown"
CHUNKER_VERSION = 1
HASHED_AT_ONCE = 2047  # bytes


class State(StrEnum):
    """The states of an upload job. The database holds the same list and enforces the transitions."""

    UPLOADED = "uploaded"
    PARSE_QUEUED = "parse_queued"
    PARSED = "parsed"
    PARSE_VALIDATED = "parse_validated"
    CHUNKS_STORED = "chunks_stored"
    EMBEDDING_IN_PROGRESS = "embedding_in_progress"
    EMBEDDINGS_STORED = "embeddings_stored"
    COMPLETE = "complete"
    FAILED_PARSE = "failed_parse"
    FAILED_CHUNKING = "failed_chunking"
    FAILED_EMBEDDING = "failed_embedding"
    CANCELLED = "cancelled"


HAPPY_PATH: tuple[State, ...] = (
    State.UPLOADED,
    State.PARSE_QUEUED,
    State.PARSED,
    State.PARSE_VALIDATED,
    State.CHUNKS_STORED,
    State.EMBEDDING_IN_PROGRESS,
    State.EMBEDDINGS_STORED,
    State.COMPLETE,
)
DEAD_LETTERS: frozenset[State] = frozenset({State.FAILED_PARSE, State.FAILED_CHUNKING, State.FAILED_EMBEDDING})
SETTLED: frozenset[State] = DEAD_LETTERS | {State.COMPLETE, State.CANCELLED}

# Mirrors upload_pipeline.state_transitions; a test compares the two.
TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    [
        *pairwise(HAPPY_PATH),
        # a parse job that the vendor lost is submitted anew
        (State.PARSE_QUEUED, State.UPLOADED),
        (State.PARSED, State.UPLOADED),
        # dead letters, from where each stage works
        (State.UPLOADED, State.FAILED_PARSE),
        (State.PARSE_QUEUED, State.FAILED_PARSE),
        (State.PARSED, State.FAILED_PARSE),
        (State.PARSE_VALIDATED, State.FAILED_CHUNKING),
        (State.CHUNKS_STORED, State.FAILED_EMBEDDING),
        (State.EMBEDDING_IN_PROGRESS, State.FAILED_EMBEDDING),
        (State.EMBEDDINGS_STORED, State.FAILED_EMBEDDING),
        # replays: back to the last state whose writes are durable
        (State.FAILED_PARSE, State.UPLOADED),
        (State.FAILED_CHUNKING, State.PARSE_VALIDATED),
        (State.FAILED_EMBEDDING, State.CHUNKS_STORED),
        *((State.CANCELLED, state) for state in (State.PARSED, State.PARSE_VALIDATED, State.CHUNKS_STORED)),
        # starting over
        *((state, State.UPLOADED) for state in (State.FAILED_CHUNKING, State.FAILED_EMBEDDING, State.CANCELLED)),
        # what the audit found damaged: anew from the stored text, or from the uploaded file
        (State.COMPLETE, State.PARSE_VALIDATED),
        (State.FAILED_EMBEDDING, State.PARSE_VALIDATED),
        (State.COMPLETE, State.UPLOADED),
        # cancelling, from every state in which work is still to be done
        *((state, State.CANCELLED) for state in HAPPY_PATH if state is not State.COMPLETE),
        *((state, State.CANCELLED) for state in DEAD_LETTERS),
    ]
)


def dead_letter_of(state: State) -> State:
    """The dead letter for a document whose work failed for good in `state`."""
    if state in (State.UPLOADED, State.PARSE_QUEUED, State.PARSED):
        return State.FAILED_PARSE
    if state is State.PARSE_VALIDATED:
        return State.FAILED_CHUNKING
    if state in (State.CHUNKS_STORED, State.EMBEDDING_IN_PROGRESS, State.EMBEDDINGS_STORED):
        return State.FAILED_EMBEDDING
    raise ValueError(f"no work is done in state {state}")


class Lane(StrEnum):
    """Which run takes a document up next."""

    SUBMIT = "submit"
    PROCESS = "process"


class Precision(StrEnum):
    """How the numbers of a vector are stored: 2 bytes each, or 4."""

    HALF = "half"
    FULL = "full"


class ParseOutcome(StrEnum):
    """How a parse job ended at the vendor, as its webhook or a poll said."""

    SUCCESS = "success"
    PARTIAL_SUCCESS = "partial_success"
    ERROR = "error"
    CANCELLED = "cancelled"


def document_id_for(owner_id: UUID, sha256: bytes) -> UUID:
    """One document for each (owner, content): the same file uploaded twice by one owner is one document."""
    return uuid5(NAMESPACE, f"{owner_id}:{sha256.hex()}")


def chunk_id_for(document_id: UUID, ordinal: int) -> UUID:
    """One id for each (document, chunker, chunker version, position)."""
    return next(chunk_ids(document_id, ordinal))


def chunk_ids(document_id: UUID, first: int = 0) -> Iterator[UUID]:
    """Those of all positions from `first` on: what uuid5 makes of their names, whose common part is hashed once."""
    common = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False)
    common.update(f"{document_id}:{CHUNKER}:{CHUNKER_VERSION}:".encode())
    for ordinal in count(first):
        name = common.copy()
        name.update(b"%d" % ordinal)
        yield UUID(bytes=name.digest()[:16], version=5)


def sha256_of(text: str) -> bytes:
    """The hash of a text, 32 bytes, over its UTF-8 form."""
    return sha256_of_bytes(text.encode())


def sha256_of_bytes(data: bytes) -> bytes:
    """The hash, 32 bytes, of some kilobytes.

    Above HASHED_AT_ONCE hashlib lets other threads run meanwhile; to get the turn back takes longer than the hash.
    """
    digest = hashlib.sha256(data[:HASHED_AT_ONCE])
    for start in range(HASHED_AT_ONCE, len(data), HASHED_AT_ONCE):
        digest.update(data[start : start + HASHED_AT_ONCE])
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Document:
    """A row of upload_pipeline.documents joined with its job, as the workers see it.

    `attempt` counts the failed attempts in the present state, the first of which was at `failing_since`; `parse_round`
    tells one parse job from the next.
    """

    document_id: UUID
    owner_id: UUID
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes
    object_key: str
    state: State
    attempt: int
    failing_since: datetime | None
    correlation_id: UUID
    parse_round: int
    parse_job_id: str | None
    parse_outcome: ParseOutcome | None
    parsed_key: str | None
    parsed_sha256: bytes | None
    page_numbers: tuple[int, ...]
    page_starts: tuple[int, ...]
    failed_pages: tuple[int, ...]
    page_count: int | None
    chunk_count: int | None
    token_count: int | None
    last_error_code: str | None
    last_error_message: str | None
    last_error_stage: str | None


@dataclass(frozen=True, slots=True)
class ParseJob:
    """A parse job as the vendor reports it; `error_code` is one of the vendor's failure codes, if it failed."""

    job_id: str
    outcome: ParseOutcome | None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedPage:
    """One page of a parse result. `markdown` is None where the vendor could not read the page; `error` says why."""

    page_number: int
    markdown: str | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedText:
    """Normalised Markdown of a document.

    `page_starts[i]` is the character offset in `text` at which page `page_numbers[i]` begins; both ascend.
    """

    text: str
    page_numbers: tuple[int, ...]
    page_starts: tuple[int, ...]
    failed_pages: tuple[int, ...] = ()
    removed_characters: int = 0


class Chunk(NamedTuple):
    """A piece of a document: `text == parsed.text[start:end]`, offsets in characters, end exclusive."""

    chunk_id: UUID
    ordinal: int
    text: str
    sha256: bytes
    start: int
    end: int
    first_page: int
    last_page: int
    heading_path: tuple[str, ...]
    token_count: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A classified failure of one document, as it is stored, shown and logged."""

    code: str
    message: str
    stage: str
    transient: bool
    retry_after_seconds: float | None = None
    uses_attempt: bool = True


class Vendor(StrEnum):
    """The outside services whose calls are paid for."""

    LLAMACLOUD = "llamacloud"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class VendorHealth:
    """The circuit breaker of a vendor: closed, open (until `reopens_at`) or half_open (one call tests the vendor).

    `since` is when it closed, or when it opened for the first time after that.
    """

    vendor: Vendor
    state: str
    since: datetime
    failures: int
    reopens_at: datetime | None
    last_error_code: str | None
    last_error_message: str | None
    last_error_at: datetime | None


@dataclass(frozen=True, slots=True)
class BucketLevel:
    """A rate limit: what may be taken now (negative while something is reserved), and how long its queue is."""

    bucket: str
    capacity: float
    per_second: float
    level: float
    queue_seconds: float


@dataclass(frozen=True, slots=True)
class UsageShare:
    """What one document owes of a call; `document_id` is None where the call served none."""

    document_id: UUID | None
    tokens: int = 0
    pages: int = 0
    cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class VendorCall:
    """A call as the ledger keeps it; `model` is the embedding model or the parse tier, `seconds` how long it took.

    Logs name it by its id, and OpenAI is told it.
    """

    vendor: Vendor
    operation: str
    model: str
    shares: tuple[UsageShare, ...]
    seconds: float | None = None
    outcome: str = "ok"
    call_id: UUID = field(default_factory=uuid4)

    @property
    def cost_usd(self) -> Decimal:
        """Of all shares together."""
        return sum((share.cost_usd for share in self.shares), Decimal(0))


class CheckResult(NamedTuple):
    """What a blocking check of a stage found; `facts` become metadata in the Dagster UI."""

    name: str
    passed: bool
    message: str
    facts: Mapping[str, int | float | str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One result of a search; `score` is the cosine similarity, from -1 to 1."""

    document_id: UUID
    chunk_id: UUID
    filename: str
    ordinal: int
    first_page: int
    last_page: int
    heading_path: tuple[str, ...]
    start: int
    end: int
    text: str
    score: float
