"""What the audit sees of Postgres and of Dagster: the records and the Protocols.

adapters.postgres.inventory and dagster_defs.partition_book implement them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from ingestion_pipeline.domain import State


class Mend(StrEnum):
    """What can be done about damage to a document."""

    ENQUEUE = "enqueue"  # a job, from the beginning
    ADOPT = "adopt"  # the job gets the document's owner
    CLEAR_BUFFER = "clear_buffer"
    DROP_OUTDATED = "drop_outdated"  # vectors of texts that the document no longer has
    DROP_SERVED = "drop_served"  # what search must not serve of a document that is not complete
    RETELL = "retell"  # Dagster hears of the document again
    REEMBED = "reembed"  # back to chunks_stored, without the vectors that are unfit
    REBUILD = "rebuild"  # back to parse_validated: chunks and vectors anew from the stored text
    REPARSE = "reparse"  # back to uploaded: everything anew from the uploaded file


@dataclass(frozen=True, slots=True)
class ChunkFacts:
    """Chunks of a document in the buffer, or in what search serves, and their vectors.

    `altered` chunks are not the text of their hash; `unfit` vectors are not of unit length; `foreign_rows` have another
    owner than the document. The SHA-256 fingerprints are of served rows only: of the texts as they are, and of the
    texts as their recorded hashes say they were.
    """

    chunks: int
    altered: int
    vectors: int
    unfit: int
    foreign_rows: int
    sha256: bytes | None = None
    recorded_sha256: bytes | None = None


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """A document's row, its job's (None without one), and counts of the rest, all at one moment."""

    document_id: UUID
    owner_id: UUID
    size_bytes: int
    sha256: bytes
    object_key: str
    parsed_key: str | None
    parsed_sha256: bytes | None
    page_numbers: tuple[int, ...]
    page_starts: tuple[int, ...]
    chunk_count: int | None
    content_sha256: bytes | None
    embedding_model: str | None
    state: State | None
    state_changed_at: datetime | None
    unchanged_seconds: float | None
    last_error_stage: str | None
    is_claimed: bool
    is_retired: bool
    has_foreign_job: bool
    buffered: ChunkFacts
    served: ChunkFacts
    outdated_vectors: int

    @property
    def has_proven_vectors(self) -> bool:
        """Whether the served vectors are those that were promoted, whatever became of the texts."""
        return self.content_sha256 is not None and self.served.recorded_sha256 == self.content_sha256


@dataclass(frozen=True, slots=True)
class ChunkMark:
    """Where a chunk lies in its document's text, in characters, end exclusive; `sha256` is of that piece."""

    ordinal: int
    start: int
    end: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Shared:
    """Something that belongs to one document and that several refer to."""

    subject: str
    document_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Standstill:
    """Work that has been due for long and that nobody takes; `lane` is None for parse jobs to be asked for."""

    lane: str | None
    documents: int
    since: datetime


class Inventory(Protocol):
    """Every call is one short transaction. All raise DatabaseUnavailableError."""

    def check(self) -> None:
        """Raise ConfigurationError if the server or its schema won't do."""
        ...

    def count_documents(self) -> int:
        """How many there are."""
        ...

    def documents_after(self, after: UUID | None, limit: int) -> list[tuple[UUID, int]]:
        """The next documents in the order of their ids, with the sizes of their files in bytes."""
        ...

    def facts(self, document_ids: Sequence[UUID]) -> list[DocumentFacts]:
        """Facts of documents; unknown ids are left out."""
        ...

    def marks(self, document_id: UUID, *, served: bool) -> list[ChunkMark]:
        """The chunks that search serves, or those of the buffer, in their order."""
        ...

    def existing(self, document_ids: Sequence[UUID]) -> set[UUID]:
        """Which of the ids are documents."""
        ...

    def files_in_use(self, keys: Sequence[str]) -> set[str]:
        """Which of the objects are the uploaded files of documents."""
        ...

    def texts_in_use(self, keys: Sequence[str]) -> set[str]:
        """Which of the objects are parsed texts that documents refer to, or may refer to in a moment."""
        ...

    def jobs_without_document(self, limit: int) -> list[UUID]:
        """Ids of documents that only a job speaks of."""
        ...

    def drop_job_without_document(self, document_id: UUID) -> bool:
        """Remove such a job."""
        ...

    def shared_files(self, limit: int) -> list[Shared]:
        """Uploaded files that several documents refer to."""
        ...

    def shared_parse_jobs(self, limit: int) -> list[Shared]:
        """Parse jobs that several documents refer to."""
        ...

    def lost_claims(self, expired_seconds: float, limit: int) -> list[tuple[UUID, str, datetime]]:
        """(document, claim, when it expired) of claims that expired so long ago."""
        ...

    def unfinished_batches(self, age_seconds: float, limit: int) -> list[tuple[UUID, datetime]]:
        """(batch, when it was made) of batches that hold nothing and whose run never said that it was over."""
        ...

    def close_batch(self, batch_id: UUID) -> bool:
        """Note that a batch is over."""
        ...

    def standstills(self, due_seconds: float) -> list[Standstill]:
        """Lanes, and parse jobs to be asked for, that nobody has worked on for so long though documents are due."""
        ...

    def endless_parse_jobs(self, age_seconds: float, limit: int) -> list[tuple[UUID, str, datetime]]:
        """(document, parse job, since when) of documents that have waited for the parser for so long."""
        ...

    def mark_untold(self, document_ids: Sequence[UUID]) -> set[UUID]:
        """Have Dagster told of settled documents; returns those that are not claimed by somebody already."""
        ...

    def mend(self, facts: DocumentFacts, mends: Sequence[Mend], reason: str) -> bool:
        """Do what `mends` say (but for RETELL) in one transaction; False if the document is no longer as in `facts`."""
        ...


class Told(StrEnum):
    """What Dagster shows of a partition."""

    DONE = "done"
    FAILED = "failed"


class PartitionBook(Protocol):
    """What Dagster knows of the documents; a partition's key is the document's id."""

    def pages(self, limit: int) -> Iterator[list[str]]:
        """All keys, so many at a time."""
        ...

    def registered(self, keys: Sequence[str]) -> set[str]:
        """Which of the keys Dagster knows."""
        ...

    def register(self, keys: Sequence[str]) -> None:
        """Make partitions."""
        ...

    def forget(self, key: str) -> None:
        """Remove a partition; its events stay."""
        ...

    def told(self, asset: str, keys: Sequence[str]) -> dict[str, Told]:
        """What an asset's partitions show; those of which nothing is known are left out."""
        ...
