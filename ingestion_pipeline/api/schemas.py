"""What the API answers with, as JSON."""

from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ingestion_pipeline.accounts import UsageOfDocument
from ingestion_pipeline.api.account_schemas import Usage
from ingestion_pipeline.catalogue import DocumentRecord, EventRecord
from ingestion_pipeline.domain import SearchHit, State
from ingestion_pipeline.remedies import remedy_for

_EXAMPLE_ID = "3f0a9c1e-6f0d-5b55-9a3e-1c2d7f6f4b10"


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class Progress(_Schema):
    """How far a document has come, in numbers; null while a number is not known yet."""

    pages: int | None = Field(description="Pages, as the parser counted them.", examples=[12])
    failed_pages: list[int] = Field(description="Numbers of the pages that the parser could not read.", examples=[[7]])
    chunks_total: int | None = Field(description="Chunks that the text was cut into.", examples=[40])
    chunks_embedded: int = Field(description="Chunks that have a vector.", examples=[25])
    tokens: int | None = Field(description="Tokens of all chunks together.", examples=[18250])


class LastError(_Schema):
    """Why the last attempt failed, and what to do about it."""

    code: str = Field(description="Stable, for programs.", examples=["pdf_is_protected"])
    message: str | None = Field(description="What happened.", examples=["The PDF needs a password."])
    stage: str | None = Field(description="The stage that failed.", examples=["parsed_documents"])
    remedy: str = Field(description="What to do about it.")

    @classmethod
    def of(cls, record: DocumentRecord) -> Self | None:
        """The error of a document, if it has one."""
        code = record.last_error_code
        if code is None:
            return None
        return cls(code=code, message=record.last_error_message, stage=record.last_error_stage, remedy=remedy_for(code))


class Document(_Schema):
    """A document and where it is on its way into search."""

    document_id: UUID = Field(examples=[_EXAMPLE_ID])
    filename: str = Field(examples=["report.pdf"])
    content_type: str = Field(examples=["application/pdf"])
    size_bytes: int = Field(examples=[482133])
    sha256: str = Field(description="Of the file's bytes, in hexadecimal.", min_length=64, max_length=64)
    state: State = Field(examples=[State.EMBEDDING_IN_PROGRESS])
    created_at: datetime
    state_changed_at: datetime
    completed_at: datetime | None = Field(description="When search began to find it.")
    progress: Progress
    attempt: int = Field(description="Failed attempts in the present state.", examples=[0])
    next_attempt_at: datetime | None = Field(description="Set while the document waits for a retry.")
    last_error: LastError | None
    embedding_model: str | None = Field(description="Set once it is complete.", examples=["text-embedding-3-small"])
    correlation_id: UUID = Field(description="Of the upload: logs and history carry it.")
    retry_path: str | None = Field(
        description="POST here takes it up again; null where there is nothing to retry.",
        examples=[f"/documents/{_EXAMPLE_ID}/retry"],
    )
    cancel_path: str | None = Field(
        description="POST here stops the work on it; null where there is none.",
        examples=[f"/documents/{_EXAMPLE_ID}/cancel"],
    )

    @classmethod
    def of(cls, record: DocumentRecord) -> Self:
        """A record of the catalogue as JSON."""
        return cls(**_document_fields(record))


class Event(_Schema):
    """One entry of a document's history: a change of state, or a failed attempt that left the state as it was."""

    event_id: int
    at: datetime
    actor: str = Field(examples=["worker"])
    from_state: State | None = Field(description="Null for the first event.")
    to_state: State
    attempt: int
    error_code: str | None
    message: str | None
    correlation_id: UUID

    @classmethod
    def of(cls, record: EventRecord) -> Self:
        """A record of the catalogue as JSON."""
        return cls(**{name: getattr(record, name) for name in cls.model_fields})


class DocumentWithHistory(Document):
    """A document with what was bought for it, and the newest entries of its history, oldest of them first."""

    usage: Usage
    history: list[Event]

    @classmethod
    def with_history(cls, record: DocumentRecord, events: list[EventRecord], usage: UsageOfDocument) -> Self:
        """Records of the catalogue and the accounts as JSON."""
        return cls(**_document_fields(record), usage=Usage.of(usage), history=[Event.of(event) for event in events])


class DocumentPage(_Schema):
    """A page of documents, the newest first."""

    documents: list[Document]
    next_cursor: str | None = Field(description="Send it as `cursor` for the next page; null on the last one.")


class KnownDocuments(_Schema):
    """Documents that are there already."""

    documents: list[Document]


class EventPage(_Schema):
    """A part of a document's history, the oldest first."""

    events: list[Event]
    next_after: int | None = Field(description="Send it as `after` for what follows; null if nothing does, so far.")


class Summary(_Schema):
    """How many documents are in each state."""

    total: int = Field(examples=[3])
    states: dict[State, int] = Field(
        description="Every state, those without documents too.", examples=[{"uploaded": 1, "complete": 2}]
    )


class Pages(_Schema):
    """The pages that a chunk stands on."""

    first: int = Field(examples=[3])
    last: int = Field(examples=[4])


class Offsets(_Schema):
    """Where a chunk stands in the document's Markdown: characters, the end is exclusive."""

    start: int = Field(examples=[10240])
    end: int = Field(examples=[11890])


class SearchResult(_Schema):
    """A chunk and the document that it comes from."""

    document_id: UUID = Field(examples=[_EXAMPLE_ID])
    filename: str = Field(examples=["report.pdf"])
    chunk_id: UUID
    ordinal: int = Field(description="The chunk's place in the document, from 0.", examples=[7])
    pages: Pages
    heading_path: list[str] = Field(description="The headings above the chunk.", examples=[["Results", "Costs"]])
    offsets: Offsets
    text: str
    score: float = Field(description="Cosine similarity, from -1 to 1.", examples=[0.62])

    @classmethod
    def of(cls, hit: SearchHit) -> Self:
        """A hit of the catalogue as JSON."""
        return cls(
            document_id=hit.document_id,
            filename=hit.filename,
            chunk_id=hit.chunk_id,
            ordinal=hit.ordinal,
            pages=Pages(first=hit.first_page, last=hit.last_page),
            heading_path=list(hit.heading_path),
            offsets=Offsets(start=hit.start, end=hit.end),
            text=hit.text,
            score=hit.score,
        )


class SearchResults(_Schema):
    """The chunks nearest to the query, nearest first."""

    model: str = Field(description="The embedding model that was asked.", examples=["text-embedding-3-small"])
    results: list[SearchResult]


class Health(_Schema):
    """The process lives."""

    status: str = Field(examples=["ok"])


class PartStatus(_Schema):
    """Whether one thing that the API needs is there; `code` says what is wrong with it."""

    ok: bool
    code: str | None = Field(default=None, examples=["database_unavailable"])
    remedy: str | None = None


class Readiness(_Schema):
    """What the API needs, part by part."""

    ready: bool
    parts: dict[str, PartStatus] = Field(
        examples=[{"database": {"ok": True}, "schema": {"ok": True}, "object_store": {"ok": True}}]
    )


def _document_fields(record: DocumentRecord) -> dict[str, object]:
    return {
        "document_id": record.document_id,
        "filename": record.filename,
        "content_type": record.content_type,
        "size_bytes": record.size_bytes,
        "sha256": record.sha256.hex(),
        "state": record.state,
        "created_at": record.created_at,
        "state_changed_at": record.state_changed_at,
        "completed_at": record.completed_at,
        "progress": Progress(
            pages=record.page_count,
            failed_pages=list(record.failed_pages),
            chunks_total=record.chunk_count,
            chunks_embedded=record.chunks_embedded,
            tokens=record.token_count,
        ),
        "attempt": record.attempt,
        "next_attempt_at": record.next_attempt_at,
        "last_error": LastError.of(record),
        "embedding_model": record.embedding_model,
        "correlation_id": record.correlation_id,
        "retry_path": f"/documents/{record.document_id}/retry" if record.is_retryable else None,
        "cancel_path": f"/documents/{record.document_id}/cancel" if record.is_cancellable else None,
    }
