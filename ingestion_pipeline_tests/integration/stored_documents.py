"""Documents in the real tables, for tests of the schema and of the store: registered, claimed, brought to a state."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg2
import psycopg2.extras
from numpy.typing import NDArray

from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import (
    Chunk,
    Document,
    Failure,
    Lane,
    ParsedText,
    ParseOutcome,
    State,
    VendorCall,
    chunk_id_for,
    document_id_for,
    sha256_of,
)
from ingestion_pipeline.ports import ChunkResult, ParseResult, PromotionFacts
from ingestion_pipeline.stages.usage import embedding_call

psycopg2.extras.register_uuid()

OWNER = UUID("11111111-1111-4111-8111-111111111111")
OTHER_OWNER = UUID("22222222-2222-4222-8222-222222222222")
MODEL = "text-embedding-3-small"
DIMENSIONS = 1536
TEXTS = ("The pump leaks.", "Replace the seal.", "Close the valve.")
OUTAGE = Failure(code="vendor_unavailable", message="the vendor sleeps", stage="parsed", transient=True)
WAITING = (  # how many sessions of a database wait for a lock
    "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
)
BAD_FILE = Failure(code="invalid_document", message="the file is empty", stage="raw_upload", transient=False)


def sql(url: str, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """Run a statement in a transaction of its own and return its rows."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


def wait_for(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Poll until `condition` holds; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def register(url: str, *, owner: UUID = OWNER, sizes: Iterable[int] = (1000,)) -> list[UUID]:
    """Documents as an upload leaves them, one for each size in bytes, the first due first. `url` is the owner's."""
    rows = []
    for size in sizes:
        sha256 = sha256_of(str(uuid4()))
        rows.append(
            (document_id_for(owner, sha256), owner, "manual.md", "text/markdown", size, sha256, "raw/manual.md")
        )
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        psycopg2.extras.execute_values(
            cursor,
            "insert into upload_pipeline.documents "
            "(document_id, owner_id, filename, content_type, size_bytes, sha256, object_key) values %s",
            rows,
        )
        psycopg2.extras.execute_values(
            cursor,
            "insert into upload_pipeline.upload_jobs (document_id, owner_id, correlation_id, next_attempt_at) "
            "values %s",
            [(row[0], owner, uuid4(), -len(rows) + number) for number, row in enumerate(rows)],
            template="(%s, %s, %s, now() + make_interval(secs => %s))",
        )
    return [row[0] for row in rows]


def job(url: str, document_id: UUID) -> dict[str, Any]:
    """The row of a document's job, with two columns about time: in how many seconds it is due and its claim expires."""
    with (
        closing(psycopg2.connect(url)) as connection,
        connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor,
    ):
        cursor.execute(
            "select *, extract(epoch from next_attempt_at - now())::float as due_in, "
            "extract(epoch from claim_expires_at - now())::float as expires_in, "
            "extract(epoch from parse_poll_at - now())::float as poll_in "
            "from upload_pipeline.upload_jobs where document_id = %s",
            (document_id,),
        )
        row = cursor.fetchone()
        assert row is not None
        return dict(row)


def everything(url: str, document_id: UUID) -> list[tuple[Any, ...]]:
    """All rows of a document in all tables, to show that nothing changed."""
    tables = (
        "documents", "upload_jobs", "events", "document_chunk_buffer", "document_chunks", "document_vectors",
    )  # fmt: skip
    return [
        row
        for table in tables
        for row in sql(
            url, f"select '{table}', t::text from upload_pipeline.{table} as t where document_id = %s", (document_id,)
        )
    ]


def events(url: str, document_id: UUID) -> list[tuple[Any, ...]]:
    """A document's history: (from, to, actor, attempt, error code)."""
    return sql(
        url,
        "select from_state, to_state, actor, attempt, error_code from upload_pipeline.events "
        "where document_id = %s order by event_id",
        (document_id,),
    )


def chunks_of(document_id: UUID, texts: Sequence[str] = TEXTS) -> list[Chunk]:
    """One chunk a text, as if they stood in one document with a line between."""
    chunks, start = [], 0
    for ordinal, text in enumerate(texts):
        chunks.append(
            Chunk(
                chunk_id=chunk_id_for(document_id, ordinal),
                ordinal=ordinal,
                text=text,
                sha256=sha256_of(text),
                start=start,
                end=start + len(text),
                first_page=1,
                last_page=1,
                heading_path=("Manual",),
                token_count=3,
            )
        )
        start += len(text) + 1
    return chunks


def vectors_for(count: int, seed: int = 7) -> NDArray[np.float32]:
    """Unit vectors, float32, shape (count, DIMENSIONS)."""
    drawn = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def parsed_text(text: str = "\n".join(TEXTS)) -> ParsedText:
    return ParsedText(text=text, page_numbers=(1, 3), page_starts=(0, 16), failed_pages=(2,))


def parse_result(
    document: Document, key: str, text: str = "\n".join(TEXTS), bill: VendorCall | None = None
) -> ParseResult:
    """A document's text as the parsed asset stores it."""
    return ParseResult(document, key, sha256_of(text), parsed_text(text), bill)


def accept_all(document_id: UUID, facts: PromotionFacts) -> None:
    """A check of a promotion that finds nothing."""


class Walk:
    """Takes one document through its life by the store's own methods, under claims of its own."""

    def __init__(self, store: PostgresDocumentStore, document_id: UUID, texts: Sequence[str] = TEXTS) -> None:
        self.store = store
        self.document_id = document_id
        self.texts = texts
        self.claim = ""

    def document(self) -> Document:
        (document,) = self.store.load([self.document_id])
        return document

    def take(self) -> None:
        """Claim the document, if it is not claimed by us."""
        self.claim = self.claim or f"claim-{uuid4()}"
        assert self.store.claim_documents([self.document_id], self.claim) == [self.document_id]

    def give_back(self) -> None:
        """As a run does that has told Dagster of the document's end."""
        self.store.release_claim(self.claim, [self.document_id])

    def submit(self) -> None:
        self.take()
        self.store.parse_submitted(self.document(), self.claim, f"job-{self.document_id}", 60.0)

    def parse(self, outcome: ParseOutcome = ParseOutcome.SUCCESS) -> None:
        assert self.store.parse_ended(f"job-{self.document_id}", outcome)

    def store_vectors(self, model: str = MODEL, seed: int = 7) -> None:
        missing = self.store.missing_vectors([self.document_id], model)
        bill = embedding_call(model, 3 * len(missing), 0.1, missing) if missing else None
        self.store.store_vectors(self.claim, missing, vectors_for(len(missing), seed), model, bill)

    def to(self, target: State, model: str = MODEL) -> Document:
        """Walk from `uploaded` to a state of the happy path or a dead letter, and hold the claim there if one can."""
        dead_end = {
            State.FAILED_PARSE: State.UPLOADED,
            State.FAILED_CHUNKING: State.PARSE_VALIDATED,
            State.FAILED_EMBEDDING: State.CHUNKS_STORED,
        }.get(target)
        steps: list[tuple[State, Callable[[], None]]] = [
            (State.UPLOADED, self.take),
            (State.PARSE_QUEUED, self.submit),
            (State.PARSED, lambda: (self.parse(), self.take())),
            (
                State.PARSE_VALIDATED,
                lambda: self.store.parsed(self.claim, [parse_result(self.document(), "parsed/x")]),
            ),
            (
                State.CHUNKS_STORED,
                lambda: self.store.chunks_stored(
                    self.claim, [ChunkResult(self.document(), chunks_of(self.document_id, self.texts))]
                ),
            ),
            (
                State.EMBEDDING_IN_PROGRESS,
                lambda: self.store.embedding_started(self.claim, [self.document().document_id]),
            ),
            (
                State.EMBEDDINGS_STORED,
                lambda: (
                    self.store_vectors(model),
                    self.store.embeddings_stored(self.claim, [self.document().document_id]),
                ),
            ),
            (State.COMPLETE, lambda: self.store.promote(self.claim, [self.document().document_id], model, accept_all)),
        ]
        for state, step in steps:
            step()
            if state is (dead_end or target):
                break
        if dead_end:
            self.store.dead_letter(self.document(), self.claim, BAD_FILE)
        document = self.document()
        assert document.state is target
        return document


def claim_one(store: PostgresDocumentStore, lane: Lane) -> tuple[str, UUID]:
    """Claim the one document that is due in a lane."""
    batch = store.claim_batch(lane, max_documents=10, max_bytes=1 << 30)
    assert batch is not None
    (document_id,) = batch.document_ids
    return batch.claim, document_id
