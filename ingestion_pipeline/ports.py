"""What the stages and the pipeline need of the outside world, as Protocols; adapters implement them."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray

from ingestion_pipeline.domain import (
    Chunk,
    Document,
    Failure,
    Lane,
    ParsedPage,
    ParsedText,
    ParseJob,
    ParseOutcome,
    State,
    VendorCall,
)
from ingestion_pipeline.errors import IngestionError


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of the store: its key, its size in bytes, and when it was written, in UTC."""

    key: str
    size_bytes: int
    modified_at: datetime


class ObjectStore(Protocol):
    """Holds uploaded files and parsed texts under keys such as `raw/<owner>/<upload>`.

    Raises ObjectMissingError for an unknown key, StoreUnavailableError where the store can't be reached.
    """

    async def put_stream(self, key: str, parts: AsyncIterator[bytes]) -> int:
        """Write the parts as one object and return its size in bytes. If the iterator raises, nothing stays behind."""
        ...

    def put(self, key: str, data: bytes, *, is_synced: bool = True) -> None:
        """Write an object whole, replacing one of the same key. If not synced, a crash can lose it until sync()."""
        ...

    def sync(self, keys: Sequence[str]) -> None:
        """What was put under these keys, one or more, survives a crash from now on."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object."""
        ...

    def stream(self, key: str, part_bytes: int = 1 << 20) -> Iterator[bytes]:
        """The object in parts of about `part_bytes`."""
        ...

    def size(self, key: str) -> int:
        """The object's size in bytes."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        ...

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects below a prefix."""
        ...

    def check(self) -> None:
        """Raise an IngestionError, permanent or transient, unless the store answers with our settings."""
        ...


@dataclass(frozen=True, slots=True)
class ParseRequest:
    """What the parser gets to know of a document. `parts` are the file's bytes in order."""

    document_id: UUID
    correlation_id: UUID
    attempt: int
    filename: str
    content_type: str
    parts: Iterator[bytes]


class Parser(Protocol):
    """Turns files into Markdown pages, asynchronously: submit, be told (or ask), fetch."""

    def submit(self, request: ParseRequest) -> ParseJob:
        """Upload the file and start a job whose webhook reaches our API."""
        ...

    def find(self, document_id: UUID, attempt: int) -> ParseJob | None:
        """The job of this document and attempt, if a submit that we lost the answer of created it after all."""
        ...

    def status(self, job_id: str) -> ParseJob:
        """The job now. Raises ParseJobLostError if the vendor does not know it."""
        ...

    def pages(self, job_id: str) -> list[ParsedPage]:
        """The Markdown of a job that succeeded. Raises ParseJobLostError if the result has expired."""
        ...

    def failure(self, job: ParseJob) -> IngestionError:
        """Why a job that ended without a result did so, classified; not raised."""
        ...

    def cancel(self, job_id: str) -> None:
        """Ask the vendor to stop; no error if it is over already."""
        ...

    def bill(self, document_id: UUID, pages: int) -> VendorCall:
        """What the vendor bills for a document of so many pages."""
        ...


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of one request: float32, shape (texts, dimensions), in the order of the texts; tokens as billed.

    `seconds` is how long the request took; `call_id` is that of the ledger.
    """

    vectors: NDArray[np.float32]
    tokens: int
    seconds: float | None = None
    call_id: UUID = field(default_factory=uuid4)


class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def model(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """One request. The caller keeps to the limits of a request (see stages.embed)."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents that a sensor claimed for one run; the claim of the run is the batch's id."""

    batch_id: UUID
    document_ids: tuple[UUID, ...]
    correlation_ids: tuple[UUID, ...] = ()

    @property
    def claim(self) -> str:
        return str(self.batch_id)


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What still follows from the cancelling of a document.

    If `is_at_parser`, a parse job may be at work: `parse_job_id`, or one of that round which is to be looked for.
    """

    cancellation_id: int
    document_id: UUID
    parse_round: int
    parse_job_id: str | None
    is_at_parser: bool


class PendingText(NamedTuple):
    """A chunk that has no vector yet."""

    chunk_id: UUID
    document_id: UUID
    owner_id: UUID
    chunk_sha256: bytes
    text: str
    token_count: int


@dataclass(frozen=True, slots=True)
class VectorFacts:
    """The chunks that the buffer holds of a document and their vectors by one model, counted by the database."""

    chunks: int
    vectors: int
    abnormal_vectors: int
    least_dimensions: int | None
    most_dimensions: int | None
    tokens: int


@dataclass(frozen=True, slots=True)
class PromotionFacts:
    """A document's chunks in the buffer and in what search serves: how many, and how many are not served as they were
    buffered or have no vector; the SHA-256 fingerprint of the content, None without any.
    """

    buffered_chunks: int
    served_chunks: int
    unequal_chunks: int
    content_sha256: bytes | None
    tokens: int


@dataclass(frozen=True, slots=True)
class ParseResult:
    """The normalised text of a document, the key and the SHA-256 (32 bytes) of the object that holds it, and what
    parsing is billed at."""

    document: Document
    parsed_key: str
    sha256: bytes
    parsed: ParsedText
    bill: VendorCall | None = None


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """All chunks of a document, in order."""

    document: Document
    chunks: Sequence[Chunk]


class DocumentStore(Protocol):
    """The workers' view of Postgres.

    Each write is one transaction, for one document or for many, and advances the states with it. A write names its
    claim and raises ClaimLostError, having changed nothing, if another run has one of the documents or one is in
    another state; all raise DatabaseUnavailableError.
    """

    def claim_batch(self, lane: Lane, *, max_documents: int, max_bytes: int, document_bytes: int = 0) -> Batch | None:
        """Claim what is due in a lane, oldest first, or None if nothing is.

        Each document counts `document_bytes` beside its own. One that is larger than `max_bytes` comes alone.
        """
        ...

    def announced_work(self, lane: Lane) -> AbstractContextManager[Callable[[float], bool]]:
        """Listen for work of a lane: the function waits for it, at most so many seconds, and tells whether it came."""
        ...

    def active_batches(self, lane: Lane) -> int:
        """How many claims of a lane are out."""
        ...

    def due_documents(self, lane: Lane, most: int) -> tuple[int, int]:
        """How many documents of a lane could be claimed now, and their bytes, counted no further than `most`."""
        ...

    def claim_documents(self, document_ids: Sequence[UUID], claim: str) -> list[UUID]:
        """Claim given documents; returns those that no other run has and that have work, or a result, to report."""
        ...

    def renew_claim(self, claim: str) -> list[UUID]:
        """Extend a claim; returns what is still held."""
        ...

    def expect_held(self, claim: str, document_ids: Sequence[UUID]) -> None:
        """Before something is paid for: raises ClaimLostError if others have what was claimed, because this process
        stood still for longer than the claim's life. Asks the database only then; what else ends a claim the next write
        notices.
        """
        ...

    def release_claim(self, claim: str, document_ids: Sequence[UUID] | None = None) -> None:
        """Give documents back (None: all that the claim holds; of the settled ones Dagster is told by another run)."""
        ...

    def abandon_claim(self, claim: str) -> None:
        """Let a claim expire at once: nobody knows how far its run has come, and the next one looks."""
        ...

    def release_expired_claims(self) -> list[tuple[UUID, State]]:
        """Give back what dead runs hold; returns it."""
        ...

    def load(self, document_ids: Sequence[UUID]) -> list[Document]:
        """Documents by id, the longest waiting first; unknown ids are left out."""
        ...

    def finish_batch(self, batch_id: UUID, failed_count: int) -> None:
        """Note that the run of a batch is over."""
        ...

    def parse_submitted(self, document: Document, claim: str, parse_job_id: str, poll_seconds: float) -> None:
        """uploaded → parse_queued (or further, if the webhook was faster). Ends the claim."""
        ...

    def parse_ended(self, parse_job_id: str, outcome: ParseOutcome) -> bool:
        """What the parser's webhook would have said; False if nothing waits for that job."""
        ...

    def overdue_parse_jobs(self, *, max_documents: int, poll_seconds: float) -> list[tuple[UUID, str]]:
        """(document, parse job) whose webhook should have come; the next look at them is in `poll_seconds`."""
        ...

    def parsed(self, claim: str, results: Sequence[ParseResult]) -> None:
        """parsed → parse_validated."""
        ...

    def chunks_stored(self, claim: str, results: Sequence[ChunkResult]) -> set[UUID]:
        """parse_validated → chunks_stored; replaces what an earlier try left in the buffer.

        Returns the documents that have vectors already, some of which may be those of the new chunks.
        """
        ...

    def embedding_started(self, claim: str, document_ids: Sequence[UUID]) -> None:
        """chunks_stored → embedding_in_progress."""
        ...

    def reuse_vectors(self, claim: str, document_ids: Sequence[UUID], model: str) -> dict[UUID, int]:
        """Copy vectors that were paid for already, for any document of the owner; returns how many a document."""
        ...

    def missing_vectors(self, document_ids: Sequence[UUID], model: str, most: int | None = None) -> list[PendingText]:
        """Chunks without a vector, by document and position, all or at most so many."""
        ...

    def store_vectors(
        self,
        claim: str,
        texts: Sequence[PendingText],
        vectors: NDArray[np.float32],
        model: str,
        bill: VendorCall | None = None,
    ) -> None:
        """Store vectors, `vectors[i]` for `texts[i]`, and the call that they were paid with. Search finds a vector once
        its chunk is served."""
        ...

    def vector_facts(self, document_ids: Sequence[UUID], model: str) -> dict[UUID, VectorFacts]:
        """How far each document's chunks in the buffer have their vectors."""
        ...

    def embeddings_stored(self, claim: str, document_ids: Sequence[UUID]) -> None:
        """embedding_in_progress → embeddings_stored."""
        ...

    def promote(
        self, claim: str, document_ids: Sequence[UUID], model: str, accept: Callable[[UUID, PromotionFacts], None]
    ) -> None:
        """embeddings_stored → complete: what is buffered becomes what search serves, unless `accept` raises for one."""
        ...

    def retry_later(self, document: Document, claim: str, failure: Failure, delay_seconds: float) -> None:
        """The same work again, later. Ends the claim."""
        ...

    def postpone(self, document: Document, claim: str, failure: Failure, delay_seconds: float, attempt: int) -> None:
        """The same work again, later, with the count of attempts as given. Ends the claim."""
        ...

    def resubmit(self, document: Document, claim: str | None, failure: Failure, delay_seconds: float) -> None:
        """parse_queued or parsed → uploaded, in a new round. Ends the claim."""
        ...

    def dead_letter(self, document: Document, claim: str, failure: Failure) -> None:
        """Into the dead letter of the document's state."""
        ...

    def replay(self, document: Document, *, start_over: bool = False) -> State:
        """From a dead letter or cancelled back to the last state whose writes are durable, or to the start, as also
        from complete; returns that state."""
        ...

    def due_cancellations(self, *, max_documents: int, again_seconds: float) -> list[Cancellation]:
        """Cancelled documents of which something still follows; those not settled come again in `again_seconds`."""
        ...

    def settle_cancellation(self, cancellation: Cancellation) -> None:
        """Nothing more follows from it."""
        ...
