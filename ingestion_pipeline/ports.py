"""What the stages and the pipeline need of the outside world, as Protocols; adapters implement them."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ingestion_pipeline.domain import ParsedPage, ParseJob


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of the store: its key and its size in bytes."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """Holds uploaded files and parsed texts under keys such as `raw/<owner>/<upload>`.

    Raises ObjectMissingError for an unknown key, StoreUnavailableError where the store can't be reached.
    """

    async def put_stream(self, key: str, parts: AsyncIterator[bytes]) -> int:
        """Write the parts as one object and return its size in bytes. If the iterator raises, nothing stays behind."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole, replacing one of the same key."""
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

    def cancel(self, job_id: str) -> None:
        """Ask the vendor to stop; no error if it is over already."""
        ...


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of one request: float32, shape (texts, dimensions), in the order of the texts; tokens as billed."""

    vectors: NDArray[np.float32]
    tokens: int


class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def model(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """One request. The caller keeps to the limits of a request (see stages.embed)."""
        ...
