"""Who may do what in the schema, row by row."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import psycopg2.errors
import pytest
from conftest import DatabaseUrls
from stored_documents import OTHER_OWNER, OWNER, Walk, register, sql

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import State, sha256_of

READABLE = (
    "documents", "upload_jobs", "events", "document_chunks", "owned_vectors", "provider_usage",
)  # fmt: skip
CLOSED = ("document_chunk_buffer", "document_vectors")
HISTORY_WRITES = (
    "insert into upload_pipeline.events (document_id, owner_id, actor, to_state, correlation_id, attempt) "
    "select document_id, owner_id, 'me', 'complete', correlation_id, 0 from upload_pipeline.upload_jobs",
    "update upload_pipeline.events set actor = 'somebody else'",
    "delete from upload_pipeline.events",
    "truncate upload_pipeline.events",
)


def claims(owner_id: UUID | None) -> str:
    return json.dumps({"sub": str(owner_id), "role": "authenticated"}) if owner_id else ""


@pytest.fixture
def populated(database_urls: DatabaseUrls) -> DatabaseUrls:
    """Each of two owners has a complete document and one that is embedded and not served."""
    database = Database(database_urls.worker, application_name="test")
    store = PostgresDocumentStore(database, actor="run", claim_seconds=60.0)
    for owner in (OWNER, OTHER_OWNER):
        for state in (State.COMPLETE, State.EMBEDDINGS_STORED):
            Walk(store, register(database_urls.owner, owner=owner)[0]).to(state)
    database.close()
    return database_urls


@pytest.fixture
def api(populated: DatabaseUrls) -> Iterator[Any]:
    """A cursor of the API's role, acting for OWNER."""
    with closing(psycopg2.connect(populated.api)) as connection, connection.cursor() as cursor:
        cursor.execute("select set_config('request.jwt.claims', %s, false)", (claims(OWNER),))
        connection.commit()
        yield cursor


def test_the_api_sees_its_owners_rows_alone_in_every_table(api: Any, populated: DatabaseUrls) -> None:
    for table in READABLE:
        everyone = sql(populated.owner, f"select distinct owner_id from upload_pipeline.{table} order by 1")
        assert everyone == [(OWNER,), (OTHER_OWNER,)]
        api.execute(f"select owner_id, count(*) from upload_pipeline.{table} group by 1")
        ((owner, count),) = api.fetchall()
        expected = sql(populated.owner, f"select count(*) from upload_pipeline.{table} where owner_id = %s", (OWNER,))
        assert (owner, count) == (OWNER, expected[0][0])


def test_every_table_with_an_owner_has_row_level_security_or_is_closed_to_the_api(populated: DatabaseUrls) -> None:
    with_owner = sql(
        populated.owner,
        "select c.relname, c.relrowsecurity from pg_class as c join pg_attribute as a on a.attrelid = c.oid "
        "where c.relnamespace = 'upload_pipeline'::regnamespace and c.relkind in ('r', 'p') and a.attname = 'owner_id'",
    )
    assert set(with_owner) == {*((table, True) for table in READABLE), *((table, False) for table in CLOSED)}
    for table in CLOSED:
        reads = f"select has_any_column_privilege('ingest_api', 'upload_pipeline.{table}', 'select, insert')"
        assert sql(populated.owner, reads) == [(False,)]


def test_the_api_counts_the_buffered_vectors_of_its_owners_documents_alone(api: Any, populated: DatabaseUrls) -> None:
    buffered = "select document_id, owner_id from upload_pipeline.document_chunk_buffer group by 1, 2"
    for document_id, owner_id in sql(populated.owner, buffered):
        api.execute("select upload_pipeline.count_buffered_vectors(%s)", (document_id,))
        assert api.fetchone() == (3 if owner_id == OWNER else 0,)


@pytest.mark.parametrize("told", [None, uuid4()], ids=["nobody", "a stranger"])
def test_the_api_sees_nothing_when_it_acts_for_somebody_without_documents(
    populated: DatabaseUrls, told: UUID | None
) -> None:
    with Database(populated.api, application_name="test").transaction(actor="api", owner_id=told) as connection:
        for table in READABLE:
            with connection.cursor() as cursor:
                cursor.execute(f"select count(*) from upload_pipeline.{table}")
                assert cursor.fetchone() == (0,)


def test_an_owner_of_one_transaction_is_forgotten_in_the_next_of_the_same_connection(populated: DatabaseUrls) -> None:
    database = Database(populated.api, application_name="test", max_connections=1)
    seen = []
    for owner in (OWNER, None, OTHER_OWNER):
        with database.transaction(actor="api", owner_id=owner) as connection, connection.cursor() as cursor:
            cursor.execute("select pg_backend_pid(), count(*) from upload_pipeline.documents")
            seen.append(cursor.fetchone())
    database.close()
    assert [count for _, count in seen] == [2, 0, 2]
    assert len({process for process, _ in seen}) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "update upload_pipeline.documents set filename = 'x'",
        "delete from upload_pipeline.documents",
        "update upload_pipeline.upload_jobs set state = 'cancelled'",
        "delete from upload_pipeline.upload_jobs",
        "delete from upload_pipeline.document_chunks",
        "delete from upload_pipeline.document_vectors",
        "select * from upload_pipeline.webhook_deliveries",
        "insert into upload_pipeline.webhook_deliveries values ('llamaparse', 'event', 'parse.success', 'job')",
        "select * from upload_pipeline.document_chunk_buffer",
        "select * from upload_pipeline.document_vectors",
        "select * from upload_pipeline.ingestion_batches",
        "select upload_pipeline.apply_parse_outcome('job', 'success')",
        "select upload_pipeline.replay_document(document_id, true) from upload_pipeline.documents",
        "select * from upload_pipeline.cancellations",
        "update upload_pipeline.provider_usage set cost_usd = 0",
        "delete from upload_pipeline.provider_usage",
        "insert into upload_pipeline.provider_usage (call_id, provider, operation, model, owner_id) "
        f"values ('{OWNER}', 'openai', 'embed', 'm', '{OTHER_OWNER}')",
        "insert into upload_pipeline.provider_usage (call_id, provider, operation, model, owner_id, document_id) "
        f"values ('{OWNER}', 'openai', 'embed', 'm', '{OWNER}', '{OWNER}')",
        "update upload_pipeline.vendor_breakers set state = 'closed'",
        "insert into upload_pipeline.vendor_breakers (vendor) values ('mine')",
        "update upload_pipeline.rate_buckets set level = 0",
        "create table upload_pipeline.mine ()",
        "create table dagster.mine ()",
        "alter table upload_pipeline.documents disable row level security",
        "set role ingest_worker",
        "set session_replication_role = replica",
        *HISTORY_WRITES,
    ],
)
def test_the_api_may_not(api: Any, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        api.execute(statement)


def test_the_api_gets_an_error_and_no_rows_with_row_security_off(api: Any) -> None:
    api.execute("set row_security = off")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        api.execute("select * from upload_pipeline.documents")


REGISTER = (
    "insert into upload_pipeline.documents "
    "(document_id, owner_id, filename, content_type, size_bytes, sha256, object_key) "
    "values (%s, %s, 'a.txt', 'text/plain', 1, %s, 'raw/a')"
)
ENQUEUE = "insert into upload_pipeline.upload_jobs (document_id, owner_id, correlation_id) values (%s, %s, %s)"


def test_the_api_registers_and_enqueues_for_its_owner(api: Any) -> None:
    document_id = uuid4()
    api.execute(REGISTER, (document_id, OWNER, sha256_of("new")))
    api.execute(ENQUEUE, (document_id, OWNER, uuid4()))
    api.execute("select to_state from upload_pipeline.events where document_id = %s", (document_id,))
    assert api.fetchall() == [("uploaded",)]


def test_the_api_can_not_register_for_another_owner(api: Any) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"):
        api.execute(REGISTER, (uuid4(), OTHER_OWNER, sha256_of("new")))


def test_the_api_can_not_enqueue_another_owners_document(api: Any, populated: DatabaseUrls) -> None:
    (foreign,) = register(populated.owner, owner=OTHER_OWNER)
    sql(populated.owner, "delete from upload_pipeline.upload_jobs where document_id = %s", (foreign,))
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"):
        api.execute(ENQUEUE, (foreign, OWNER, uuid4()))


@pytest.mark.parametrize(
    "statement",
    [
        "create table upload_pipeline.mine ()",
        "create function upload_pipeline.mine() returns void language sql as ''",
        "create view upload_pipeline.mine as select 1",
        "alter table upload_pipeline.upload_jobs disable trigger all",
        "drop table upload_pipeline.events",
        "insert into upload_pipeline.state_transitions values ('complete', 'uploaded')",
        "delete from upload_pipeline.state_transitions",
        "delete from upload_pipeline.webhook_deliveries",
        "truncate upload_pipeline.upload_jobs",
        "set session_replication_role = replica",
        "select upload_pipeline.append_event()",
        "update upload_pipeline.provider_usage set cost_usd = 0",
        "delete from upload_pipeline.provider_usage",
        "update upload_pipeline.vendor_breakers set state = 'closed'",
        "update upload_pipeline.rate_buckets set level = 0",
        "select upload_pipeline.cancel_document(document_id) from upload_pipeline.documents",
        "select upload_pipeline.retry_document(document_id, true) from upload_pipeline.documents",
        "insert into upload_pipeline.cancellations default values",
        "update upload_pipeline.cancellations set parse_job_id = 'job'",
        "delete from upload_pipeline.cancellations",
        *HISTORY_WRITES,
    ],
)
def test_a_worker_may_not(populated: DatabaseUrls, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        sql(populated.worker, statement)


def test_a_worker_sees_every_owners_rows_and_owns_dagsters_schema(populated: DatabaseUrls) -> None:
    assert sql(populated.worker, "select count(distinct owner_id) from upload_pipeline.documents") == [(2,)]
    sql(populated.worker, "create table dagster.runs (id integer)")
    assert sql(populated.worker, "select tableowner from pg_tables where tablename = 'runs'") == [("ingest_worker",)]


def test_nobody_else_may_run_our_functions_or_read_our_tables(populated: DatabaseUrls) -> None:
    open_to_all = (
        "select proname::text from pg_proc where pronamespace = 'upload_pipeline'::regnamespace "
        "and has_function_privilege('public', oid, 'execute') union all "
        "select relname::text from pg_class where relnamespace = 'upload_pipeline'::regnamespace and relkind = 'r' "
        "and has_table_privilege('public', oid, 'select, insert, update, delete')"
    )
    assert sql(populated.owner, open_to_all) == []


def test_our_roles_have_no_power_beyond_their_grants(database_urls: DatabaseUrls) -> None:
    roles = sql(
        database_urls.owner,
        "select rolname, rolcanlogin, rolsuper or rolbypassrls or rolcreatedb or rolcreaterole or rolreplication "
        "from pg_roles where rolname in ('ingest_worker', 'ingest_api') order by 1",
    )
    assert roles == [("ingest_api", True, False), ("ingest_worker", True, False)]
    assert sql(database_urls.owner, "select count(*) from pg_auth_members as m join pg_roles as r on r.oid = m.member "
                                    "where r.rolname like 'ingest_%%' and not r.rolsuper", ()) == [(0,)]  # fmt: skip
