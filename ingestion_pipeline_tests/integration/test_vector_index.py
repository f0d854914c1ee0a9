"""`ingest index`: built while everything goes on, built anew after a crash, one build at a time, dropped."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner, Result
from command_line import run_ingest
from conftest import DatabaseUrls
from stored_documents import OWNER, sql, wait_for
from vector_library import add_vectors, topical_vectors

from ingestion_pipeline.adapters.postgres import vector_index as adapter
from ingestion_pipeline.adapters.postgres.migrations import Migrator
from ingestion_pipeline.adapters.postgres.vector_index import BuildOptions, Progress, VectorIndex
from ingestion_pipeline.cli.index import index
from ingestion_pipeline.domain import Precision
from ingestion_pipeline.errors import VectorIndexError

INDEX = (
    "select indisvalid from pg_index where indexrelid = to_regclass('upload_pipeline.document_vectors_by_embedding')"
)
BUILDING = "select count(*) from pg_stat_progress_create_index where datname = current_database()"


@pytest.fixture
def owner(database_urls: DatabaseUrls) -> Iterator[str]:
    """A database with 300 vectors, as its owner's URL."""
    add_vectors(database_urls.owner, OWNER, topical_vectors(300))
    return database_urls.owner


class HeldUp:
    """A transaction that holds a snapshot: an index that is built concurrently waits for its end."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.set_session(isolation_level="REPEATABLE READ")
        with self._connection.cursor() as cursor:
            cursor.execute("insert into upload_pipeline.state_transitions values ('held', 'up')")

    def end(self) -> None:
        self._connection.rollback()
        self._connection.close()


def leave_half_built(url: str) -> None:
    """An invalid index, as a server that dies in the middle of a build leaves it."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        held_up = HeldUp(url)
        with connection.cursor() as cursor, pytest.raises(psycopg2.errors.QueryCanceled):
            cursor.execute("set statement_timeout = '300ms'")
            cursor.execute(
                "create index concurrently document_vectors_by_embedding on upload_pipeline.document_vectors "
                "using hnsw (embedding halfvec_cosine_ops)"
            )
        held_up.end()
    assert sql(url, INDEX) == [(False,)]


def test_status_tells_of_the_vectors_and_that_there_is_no_index(owner: str) -> None:
    found = VectorIndex(owner).status()
    assert (found.vectors, found.owners, found.most_of_one_owner) == (300, 1, 300)
    assert (found.kind, found.is_valid, found.index_bytes, found.progress) == (None, False, 0, None)
    assert found.precision is Precision.HALF
    assert 300 * 3072 < found.vector_bytes < 300 * 6000


@pytest.mark.parametrize("precision", Precision)
def test_an_index_is_built_with_its_options_and_dropped(database_urls: DatabaseUrls, precision: Precision) -> None:
    Migrator(database_urls.owner).set_precision(precision)
    add_vectors(database_urls.owner, OWNER, topical_vectors(100), precision=precision)
    vectors = VectorIndex(database_urls.owner)
    vectors.build(BuildOptions(m=8, ef_construction=32, memory_mb=64, workers=0), lambda progress: None)
    found = vectors.status()
    assert found.kind == "hnsw (m=8, ef_construction=32)"
    assert found.is_valid
    assert found.index_bytes > 100 * 3072
    assert found.precision is precision
    assert vectors.drop()
    assert vectors.status().kind is None
    assert not vectors.drop()


def test_building_again_leaves_a_valid_index_as_it_is(owner: str) -> None:
    vectors = VectorIndex(owner)
    vectors.build(BuildOptions(m=8, ef_construction=32), lambda progress: None)
    vectors.build(BuildOptions(), lambda progress: None)
    assert vectors.status().kind == "hnsw (m=8, ef_construction=32)"


def test_what_ended_is_not_in_the_way_though_its_session_is_still_there(
    owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = []

    def left_open(connection: Any) -> nullcontext[Any]:
        sessions.append(connection)
        return nullcontext(connection)

    with monkeypatch.context() as patched:
        patched.setattr(adapter, "closing", left_open)
        VectorIndex(owner).build(BuildOptions(), lambda progress: None)
        assert VectorIndex(owner).drop()
        VectorIndex(owner).build(BuildOptions(), lambda progress: None)
    for session in sessions:
        session.close()


def test_an_index_that_a_crash_left_half_built_is_built_anew(owner: str) -> None:
    leave_half_built(owner)
    vectors = VectorIndex(owner)
    assert (vectors.status().kind, vectors.status().is_valid) == ("hnsw ()", False)
    vectors.build(BuildOptions(), lambda progress: None)
    assert vectors.status().is_valid


def test_progress_is_told_and_a_second_build_or_a_drop_is_refused_meanwhile(
    owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "PROGRESS_SECONDS", 0.02)
    told: list[Progress] = []
    held_up = HeldUp(owner)
    thread = threading.Thread(target=VectorIndex(owner).build, args=(BuildOptions(), told.append))
    thread.start()
    try:
        wait_for(lambda: told and "waiting" in told[-1].phase, "the build to wait for the transaction")
        during = VectorIndex(owner).status()
        with pytest.raises(VectorIndexError, match="is being built"):
            VectorIndex(owner).build(BuildOptions(), told.append)
        with pytest.raises(VectorIndexError, match="is being built"):
            VectorIndex(owner).drop()
    finally:
        held_up.end()
        thread.join()
    assert during.progress is not None
    assert not during.is_valid
    assert VectorIndex(owner).status().is_valid


def test_an_interrupted_build_ends_on_the_server_and_leaves_nothing(
    owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "PROGRESS_SECONDS", 0.02)

    def interrupt(progress: Progress) -> None:
        held_up.end()  # dropping what is half built waits for it too
        raise KeyboardInterrupt

    held_up = HeldUp(owner)
    with pytest.raises(KeyboardInterrupt):
        VectorIndex(owner).build(BuildOptions(), interrupt)
    assert sql(owner, BUILDING) == [(0,)]
    assert VectorIndex(owner).drop() in (False, True)  # the lock is free again
    assert sql(owner, INDEX) == []


def test_a_build_that_somebody_cancels_on_the_server_says_so(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "PROGRESS_SECONDS", 0.02)
    held_up = HeldUp(owner)
    told: list[Progress] = []

    def cancel(progress: Progress) -> None:
        if not told:
            sql(owner, "select pg_cancel_backend(pid) from pg_stat_progress_create_index")
            held_up.end()
        told.append(progress)

    with pytest.raises(VectorIndexError, match="cancelled on the server"):
        VectorIndex(owner).build(BuildOptions(), cancel)
    assert sql(owner, INDEX) == []


@pytest.fixture
def ingest_index(owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `ingest index` in this process; returns what it said."""
    monkeypatch.chdir(tmp_path)  # no .env of somebody else counts
    return lambda *arguments: CliRunner(env={"INGEST_DATABASE_URL": owner}).invoke(index, arguments)


def test_the_command_builds_what_is_worth_it_shows_it_and_drops_it(
    owner: str, ingest_index: Callable[..., Result]
) -> None:
    assert "not worth it yet" in ingest_index("build").output
    assert sql(owner, INDEX) == []
    shown = ingest_index("status").output
    assert "Index     none" in shown
    assert "compares up to 300 vectors" in shown
    built = ingest_index("build", "--force", "--m", "8").output
    assert "Index     hnsw (m=8, ef_construction=64)" in built
    assert ", valid" in built
    assert "There is one already" in ingest_index("build").output
    assert "is dropped" in ingest_index("drop").output
    assert "There is no index" in ingest_index("drop").output


def test_an_index_left_half_built_is_shown_as_such(owner: str, ingest_index: Callable[..., Result]) -> None:
    leave_half_built(owner)
    assert "left half-built: build it again" in ingest_index("status").output


def test_options_that_do_not_fit_together_are_refused(ingest_index: Callable[..., Result]) -> None:
    refused = ingest_index("build", "--force", "--m", "64")
    assert refused.exit_code == 2
    assert "--ef-construction must be at least twice --m" in refused.output


def test_a_database_without_the_schema_is_told_as_such(empty_database_url: str, tmp_path: Path) -> None:
    settings = {"INGEST_DATABASE_URL": empty_database_url}
    refused = run_ingest("index", "status", settings=settings, directory=tmp_path)
    assert refused.returncode == 1
    assert "vector_index_error" in refused.stderr
    assert "ingest db migrate" in refused.stderr
