"""What can happen to documents on the real database, as single events: for tests that put these into any order."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import psycopg2.extras
from conftest import DatabaseUrls
from stored_documents import BAD_FILE, MODEL, OWNER, accept_all, chunks_of, parse_result, vectors_for

from ingestion_pipeline.adapters.postgres.catalogue import PostgresCatalogue
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import SETTLED, Document, ParseOutcome, State
from ingestion_pipeline.ports import ChunkResult

TEXT = ["One chunk a document is enough."]
STEPS_TO_THE_END = 40


@dataclass
class Run:
    """One document as a run knows it: what it read last, under its claim, which may be lost without its knowledge."""

    claim: str
    document: Document

    @property
    def is_at_work(self) -> bool:
        """Whether it takes the document for one that is under way."""
        return self.document.state not in SETTLED


@dataclass(frozen=True)
class Notice:
    """What a webhook says."""

    event_id: str
    job_id: str
    outcome: ParseOutcome | None
    event_type: str = "parse.any"


class Places:
    """A migrated database as workers, API and owner see it."""

    def __init__(self, urls: DatabaseUrls) -> None:
        self.urls = urls
        self.worker = Database(urls.worker, application_name="test", max_connections=2)
        self.api = Database(urls.api, application_name="test", max_connections=2)
        self.store = PostgresDocumentStore(self.worker, actor="run", claim_seconds=60.0)
        self.catalogue = PostgresCatalogue(self.api)
        self.owner = psycopg2.connect(urls.owner)
        self.owner.autocommit = True

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        with self.owner.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute(statement, parameters)
            return [dict(row) for row in cursor.fetchall()] if cursor.description else []

    def job(self, document_id: UUID) -> dict[str, Any]:
        [row] = self.rows("select * from upload_pipeline.upload_jobs where document_id = %s", document_id)
        return row

    def close(self) -> None:
        for each in (self.worker, self.api, self.owner):
            each.close()


def parse_job_of(document_id: UUID, parse_round: int) -> str:
    return f"job-{document_id}-{parse_round}"


def step(run: Run, store: PostgresDocumentStore) -> None:
    """One write forward."""
    document, claim = run.document, run.claim
    document_ids = [document.document_id]
    match document.state:
        case State.UPLOADED:
            store.parse_submitted(document, claim, parse_job_of(document.document_id, document.parse_round), 60.0)
        case State.PARSED:
            store.parsed(claim, [parse_result(document, "parsed/key", TEXT[0])])
        case State.PARSE_VALIDATED:
            store.chunks_stored(claim, [ChunkResult(document, chunks_of(document.document_id, TEXT))])
        case State.CHUNKS_STORED:
            store.embedding_started(claim, document_ids)
        case State.EMBEDDING_IN_PROGRESS:
            missing = store.missing_vectors(document_ids, MODEL)
            if missing:
                store.store_vectors(claim, missing, vectors_for(len(missing)), MODEL)
            else:
                store.embeddings_stored(claim, document_ids)
        case State.EMBEDDINGS_STORED:
            store.promote(claim, document_ids, MODEL, accept_all)


def bring_to(target: State, document_id: UUID, places: Places) -> None:
    """Step by step; every run that has the document is taken for dead."""
    for _ in range(STEPS_TO_THE_END):
        places.rows(
            "update upload_pipeline.upload_jobs set claimed_by = null, claim_expires_at = null "
            "where document_id = %s", document_id,
        )  # fmt: skip
        [document] = places.store.load([document_id])
        if document.state is target:
            return
        if document.state in SETTLED:
            places.catalogue.retry(OWNER, document_id, start_over=False)
        elif document.state is State.PARSE_QUEUED and document.parse_outcome is None:
            assert places.store.parse_ended(document.parse_job_id or "", ParseOutcome.SUCCESS)
        else:
            claim = str(uuid4())
            assert places.store.claim_documents([document_id], claim) == [document_id]
            if document.state is State.PARSE_QUEUED:
                places.store.dead_letter(document, claim, BAD_FILE)
            else:
                step(Run(claim, document), places.store)
    raise AssertionError(f"{document_id} does not get on from {document.state}")
