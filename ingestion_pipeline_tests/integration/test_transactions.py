"""Transactions of pooled connections: waiting for one, errors within one, deadlocks."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
from conftest import DatabaseUrls
from stored_documents import OWNER, Walk, register, sql

from ingestion_pipeline.adapters.postgres import connection as adapter
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import State, chunk_id_for, sha256_of
from ingestion_pipeline.errors import DatabaseUnavailableError


@pytest.fixture
def store(database_urls: DatabaseUrls) -> Iterator[PostgresDocumentStore]:
    database = Database(database_urls.worker, application_name="test", max_connections=20)
    yield PostgresDocumentStore(database, actor="run-7", claim_seconds=60.0)
    database.close()


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls that start together, each in a thread; raises what one of them raises."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(timeout=20)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_who_finds_every_connection_taken_waits_for_one(database_urls: DatabaseUrls) -> None:
    database = Database(database_urls.worker, application_name="pool under test", max_connections=2)
    release = threading.Event()
    order: list[str] = []
    both_taken = threading.Barrier(3)

    def hold() -> None:
        with database.transaction(actor="holder"):
            both_taken.wait(timeout=20)
            assert release.wait(timeout=20)
            order.append("given back")

    def want() -> None:
        with database.transaction(actor="waiter") as connection, connection.cursor() as cursor:
            cursor.execute("select 1")
            order.append("served")

    with ThreadPoolExecutor(3) as pool:
        holding = [pool.submit(hold) for _ in range(2)]
        both_taken.wait(timeout=20)
        wanting = pool.submit(want)
        with pytest.raises(TimeoutError):
            wanting.result(timeout=0.3)
        connections = "select count(*) from pg_stat_activity where application_name = 'pool under test'"
        assert sql(database_urls.owner, connections) == [(2,)]
        release.set()
        for each in (*holding, wanting):
            each.result(timeout=20)
    database.close()
    assert order[0] == "given back"
    assert order.count("served") == 1


def test_who_waits_too_long_for_a_connection_is_told_that_the_database_is_not_available(
    database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "POOL_WAIT_SECONDS", 0.2)
    database = Database(database_urls.worker, application_name="test", max_connections=1)
    with (
        database.transaction(actor="holder"),
        pytest.raises(DatabaseUnavailableError) as caught,
        database.transaction(actor="waiter"),
    ):
        pass
    assert caught.value.transient
    with database.transaction(actor="after"):
        pass
    database.close()


def test_a_transaction_that_fails_leaves_nothing_behind_on_its_connection(database_urls: DatabaseUrls) -> None:
    register(database_urls.owner)
    database = Database(database_urls.worker, application_name="test", max_connections=1)
    with pytest.raises(ZeroDivisionError), database.transaction(actor="bug") as connection:
        with connection.cursor() as cursor:
            cursor.execute("update upload_pipeline.documents set filename = 'half done'")
        _ = 1 / 0
    with database.transaction(actor="next") as connection, connection.cursor() as cursor:
        cursor.execute("select filename, current_setting('ingest.actor') from upload_pipeline.documents")
        assert cursor.fetchall() == [("manual.md", "next")]
    database.close()


def test_a_constraint_violation_is_a_bug_and_no_outage(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    (document_id,) = register(database_urls.owner)
    walk = Walk(store, document_id)
    document = walk.to(State.PARSE_VALIDATED)
    with (
        pytest.raises(psycopg2.errors.CheckViolation),
        store._database.transaction(actor="bug") as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "insert into upload_pipeline.document_chunk_buffer values (%s, %s, %s, 0, 0, 0, 1, 1, '{}', 1, %s, 'x')",
            (chunk_id_for(document_id, 0), document_id, OWNER, sha256_of("x")),
        )
    assert store.load([document_id]) == [document]


@pytest.mark.parametrize("condition", ["disk_full", "out_of_memory", "too_many_connections", "admin_shutdown"])
def test_a_server_that_runs_out_of_something_is_an_outage_and_commits_nothing(
    database_urls: DatabaseUrls, condition: str
) -> None:
    database = Database(database_urls.worker, application_name="test")
    register(database_urls.owner)
    with (
        pytest.raises(DatabaseUnavailableError, match="no more"),
        database.transaction(actor="test") as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("update upload_pipeline.documents set filename = 'changed.md'")
        cursor.execute(f"do $$ begin raise exception 'no more' using errcode = '{condition}'; end $$")
    assert sql(database_urls.owner, "select filename from upload_pipeline.documents") == [("manual.md",)]
    database.close()


def test_a_deadlock_is_an_outage_of_the_one_that_loses(database_urls: DatabaseUrls) -> None:
    register(database_urls.owner, sizes=[1, 1])
    database = Database(database_urls.worker, application_name="test")
    first_lock_taken = threading.Barrier(2)
    update = "update upload_pipeline.documents set filename = %s where document_id = (select document_id " \
             "from upload_pipeline.documents order by document_id {} limit 1)"  # fmt: skip

    def cross(first: str, second: str) -> str:
        try:
            with database.transaction(actor="crossing") as connection, connection.cursor() as cursor:
                cursor.execute(update.format(first), (first,))
                first_lock_taken.wait(timeout=20)
                cursor.execute(update.format(second), (first,))
        except DatabaseUnavailableError as error:
            return error.message
        return "committed"

    outcomes = at_once(lambda: cross("asc", "desc"), lambda: cross("desc", "asc"))
    assert sorted("deadlock detected" in outcome for outcome in outcomes) == [False, True]
    assert "committed" in outcomes
    winner = ("asc", "desc")[outcomes.index("committed")]
    assert sql(database_urls.owner, "select distinct filename from upload_pipeline.documents") == [(winner,)]
    database.close()


def test_the_locks_of_a_process_that_stands_still_in_a_transaction_are_lifted(
    database_urls: DatabaseUrls, store: PostgresDocumentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    [document_id] = register(database_urls.owner)
    store.claim_documents([document_id], "standing")
    monkeypatch.setattr(adapter, "IDLE_SECONDS", 0.3)
    database = Database(database_urls.worker, application_name="standing")
    with pytest.raises(DatabaseUnavailableError), database.transaction(actor="standing") as connection:
        with connection.cursor() as cursor:
            cursor.execute("select from upload_pipeline.upload_jobs for update")
        sql(database_urls.owner, "update upload_pipeline.upload_jobs set claim_expires_at = now()")  # waits for it
        assert store.release_expired_claims() == [(document_id, State.UPLOADED)]
    database.close()


def test_a_transaction_that_works_is_not_ended_however_long_it_takes(
    database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "IDLE_SECONDS", 0.2)
    database = Database(database_urls.worker, application_name="test")
    with database.transaction(actor="test") as connection, connection.cursor() as cursor:
        cursor.execute("select pg_sleep(0.6)")
        assert cursor.fetchone() == ("",)
    database.close()
