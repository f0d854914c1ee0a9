"""What the API and the command line see of Postgres, always for one owner: documents, history, search, webhooks.

The records and the Protocol; adapters.postgres.catalogue implements it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from ingestion_pipeline.domain import DEAD_LETTERS, ParseOutcome, SearchHit, State, VendorCall
from ingestion_pipeline.errors import DatabaseUnavailableError


class CommitUncertainError(DatabaseUnavailableError):
    """The server went away during the commit: the write may or may not have happened."""


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A verified upload that lies in the object store under `object_key`. `sha256` has 32 bytes."""

    document_id: UUID
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes
    object_key: str
    correlation_id: UUID


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A document with its job. `next_attempt_at` is set only while it waits for a retry."""

    document_id: UUID
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes
    created_at: datetime
    completed_at: datetime | None
    state: State
    state_changed_at: datetime
    attempt: int
    next_attempt_at: datetime | None
    correlation_id: UUID
    page_count: int | None
    failed_pages: tuple[int, ...]
    chunk_count: int | None
    chunks_embedded: int
    token_count: int | None
    embedding_model: str | None
    last_error_code: str | None
    last_error_message: str | None
    last_error_stage: str | None

    @property
    def is_retryable(self) -> bool:
        """Whether it failed for good, was cancelled, or waits for its next attempt."""
        return self.state in DEAD_LETTERS | {State.CANCELLED} or self.next_attempt_at is not None

    @property
    def is_cancellable(self) -> bool:
        """Whether there is work left to stop."""
        return self.state not in (State.COMPLETE, State.CANCELLED)


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One entry of a document's history; `event_id` ascends."""

    event_id: int
    at: datetime
    actor: str
    from_state: State | None
    to_state: State
    attempt: int
    error_code: str | None
    message: str | None
    correlation_id: UUID


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the list of documents, which runs from the newest to the oldest: right after this one."""

    created_at: datetime
    document_id: UUID


@dataclass(frozen=True, slots=True)
class Selection:
    """Which documents a list has: those to which everything applies that is not None.

    `has_error` selects those whose last attempt failed: dead letters, and what waits for a retry.
    """

    states: tuple[State, ...] | None = None
    code: str | None = None
    has_error: bool | None = None


class ParseNotice(Protocol):
    """What a verified webhook of the parser says; `outcome` is None if the job is not over."""

    @property
    def event_id(self) -> str: ...

    @property
    def event_type(self) -> str: ...

    @property
    def job_id(self) -> str: ...

    @property
    def outcome(self) -> ParseOutcome | None: ...


class Catalogue(Protocol):
    """Every call is one transaction in which row-level security lets through what belongs to `owner_id`.

    All raise DatabaseUnavailableError.
    """

    def register(self, owner_id: UUID, document: NewDocument) -> tuple[DocumentRecord, bool]:
        """Record a document and put it into the queue, unless this owner has one of the same content already.

        Returns the document as it is then, and whether it is new. Raises CommitUncertainError.
        """
        ...

    def get(self, owner_id: UUID, document_id: UUID) -> DocumentRecord:
        """Raises NotFoundError if this owner has no such document."""
        ...

    def find(self, owner_id: UUID, document_ids: Sequence[UUID]) -> list[DocumentRecord]:
        """Those of the documents that this owner has, in no order."""
        ...

    def list_documents(
        self, owner_id: UUID, *, selection: Selection, after: Position | None, limit: int
    ) -> list[DocumentRecord]:
        """Newest first."""
        ...

    def retry(self, owner_id: UUID, document_id: UUID, *, start_over: bool) -> DocumentRecord:
        """Take a document up again, from its last durable state or from the beginning; one that waits is due at once.

        Returns the document as it is then. Raises NotFoundError and NotRetryableError.
        """
        ...

    def cancel(self, owner_id: UUID, document_id: UUID) -> DocumentRecord:
        """Stop the work on a document; one that is cancelled stays so.

        Returns the document as it is then. Raises NotFoundError and NotCancellableError.
        """
        ...

    def events(self, owner_id: UUID, document_id: UUID, *, after_event_id: int, limit: int) -> list[EventRecord]:
        """Oldest first. Raises NotFoundError."""
        ...

    def history(self, owner_id: UUID, document_id: UUID, *, limit: int) -> tuple[DocumentRecord, list[EventRecord]]:
        """A document and its newest events, oldest of them first. Raises NotFoundError."""
        ...

    def count_by_state(self, owner_id: UUID) -> dict[State, int]:
        """How many documents are in each state; states without documents are left out."""
        ...

    def search(
        self, owner_id: UUID, *, vector: Sequence[float], model: str, limit: int, bill: VendorCall | None = None
    ) -> list[SearchHit]:
        """The chunks nearest to a vector of `model`, nearest first; `bill`, what the vector cost, is the owner's."""
        ...

    def receive_parse_event(self, source: str, notice: ParseNotice) -> str:
        """Deduplicate and apply a verified webhook: applied, duplicate, waiting or ignored."""
        ...

    def check(self) -> None:
        """Raises DatabaseUnavailableError, or ConfigurationError if the server or its schema won't do."""
        ...
