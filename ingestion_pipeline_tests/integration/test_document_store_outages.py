"""The store while its server dies: a private, durable server is killed between transactions and within them."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from conftest import DatabaseUrls, PostgresServer
from stored_documents import MODEL, Walk, chunks_of, everything, job, register, sql, wait_for

from ingestion_pipeline.adapters.postgres.binary_copy import chunk_rows
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.domain import Lane, State
from ingestion_pipeline.errors import DatabaseUnavailableError
from ingestion_pipeline.local_stack.embedded_postgres import EmbeddedPostgres
from ingestion_pipeline.local_stack.process_sessions import send
from ingestion_pipeline.ports import ChunkResult


@dataclass
class MortalServer:
    """A durable server of our own, with one database and a store whose pool outlives the server's deaths."""

    embedded: EmbeddedPostgres
    folder: Path
    urls: DatabaseUrls
    store: PostgresDocumentStore

    def kill(self) -> None:
        """End the server as a crash of the machine would, and wait until all its processes are gone."""
        postmaster = psutil.Process(int((self.folder / "cluster" / "postmaster.pid").read_text().split()[0]))
        backends = postmaster.children()
        send(signal.SIGKILL, [postmaster, *backends])
        wait_for(lambda: not any(_runs(process) for process in (postmaster, *backends)), "the server to die")

    def restart(self) -> None:
        self.kill()
        self.embedded.start()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def server() -> Iterator[MortalServer]:
    folder = Path(tempfile.mkdtemp(prefix="ingest-tests-")) / "postgres"
    embedded = EmbeddedPostgres(folder, durable=True)
    urls = PostgresServer(embedded.start().url()).create_database()
    database = Database(urls.worker, application_name="test", max_connections=3)
    yield MortalServer(embedded, folder, urls, PostgresDocumentStore(database, actor="run-7", claim_seconds=60.0))
    database.close()
    embedded.stop()
    shutil.rmtree(folder.parent)


def test_pooled_connections_recover_from_a_restart_between_transactions(server: MortalServer) -> None:
    (document_id,) = register(server.urls.owner)
    walk = Walk(server.store, document_id)
    for state in (State.PARSED, State.CHUNKS_STORED, State.COMPLETE):
        before = walk.to(state) if state is State.PARSED else walk.document()
        server.restart()
        assert walk.document() == before  # what was committed is there, and reading it needs no second try
        if state is State.PARSED:
            server.store.renew_claim(walk.claim)


def test_a_server_that_is_away_is_reported_and_found_again(server: MortalServer) -> None:
    (document_id,) = register(server.urls.owner)
    server.kill()
    for _ in range(2):
        with pytest.raises(DatabaseUnavailableError):
            server.store.load([document_id])
    server.embedded.start()
    assert server.store.load([document_id])[0].document_id == document_id


def test_a_claim_survives_the_death_of_the_server(server: MortalServer) -> None:
    (document_id,) = register(server.urls.owner)
    others = "update upload_pipeline.upload_jobs set next_attempt_at = 'infinity' where document_id <> %s"
    sql(server.urls.owner, others, (document_id,))
    batch = server.store.claim_batch(Lane.SUBMIT, max_documents=10, max_bytes=1 << 30)
    server.restart()
    assert batch is not None
    assert server.store.renew_claim(batch.claim) == [document_id]
    assert server.store.claim_batch(Lane.SUBMIT, max_documents=10, max_bytes=1 << 30) is None


def test_a_server_that_dies_within_a_promotion_leaves_nothing_promoted(server: MortalServer) -> None:
    (document_id,) = register(server.urls.owner)
    walk = Walk(server.store, document_id)
    document = walk.to(State.EMBEDDINGS_STORED)
    before = everything(server.urls.owner, document_id)

    def die(*_: object) -> None:
        server.restart()

    with pytest.raises(DatabaseUnavailableError):
        server.store.promote(walk.claim, [document.document_id], MODEL, die)
    assert everything(server.urls.owner, document_id) == before
    server.store.promote(walk.claim, [document.document_id], MODEL, lambda *_: None)  # the same again
    assert job(server.urls.owner, document_id)["state"] == "complete"


class DeadlyFile:
    """Gives the rows of a COPY, and restarts the server when half of them are read."""

    def __init__(self, data: bytes, server: MortalServer) -> None:
        self._parts = [data[: len(data) // 2], data[len(data) // 2 :]]
        self._server = server

    def read(self, _: int) -> bytes:
        if len(self._parts) == 1:
            self._server.restart()
        return self._parts.pop(0) if self._parts else b""


def test_a_server_that_dies_within_a_copy_is_an_outage_and_leaves_no_rows(server: MortalServer) -> None:
    (document_id,) = register(server.urls.owner)
    walk = Walk(server.store, document_id)
    document = walk.to(State.PARSE_VALIDATED)
    before = everything(server.urls.owner, document_id)
    chunks = chunks_of(document_id, ["x" * 5000 + str(n) for n in range(200)])
    rows = chunk_rows([ChunkResult(document, chunks)]).read()
    with (
        pytest.raises(DatabaseUnavailableError),
        server.store._database.transaction(actor="test") as connection,
        connection.cursor() as cursor,
    ):
        cursor.copy_expert(queries().copy_chunks.sql, DeadlyFile(rows, server), 1 << 20)
    assert everything(server.urls.owner, document_id) == before


@pytest.mark.parametrize("moment", ["statement", "commit"])
def test_a_session_that_the_server_ends_is_an_outage_and_commits_nothing(server: MortalServer, moment: str) -> None:
    (document_id,) = register(server.urls.owner)
    with (
        pytest.raises(DatabaseUnavailableError),
        server.store._database.transaction(actor="test") as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("update upload_pipeline.documents set filename = 'lost' where document_id = %s", (document_id,))
        sql(server.urls.owner, "select pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
        if moment == "statement":
            cursor.execute("select 1")
    assert server.store.load([document_id])[0].filename == "manual.md"


def test_a_server_that_shuts_down_in_order_is_found_again(server: MortalServer) -> None:
    (document_id,) = register(server.urls.owner)
    assert server.store.load([document_id])
    server.embedded.stop()
    with pytest.raises(DatabaseUnavailableError):
        server.store.load([document_id])
    server.embedded.start()
    assert server.store.load([document_id])
