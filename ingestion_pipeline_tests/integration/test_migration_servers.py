"""Which servers and roles migrations work with: versions, addresses, passwords, owners that are no superusers."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import psycopg2
import pytest
from conftest import DatabaseUrls, PostgresServer
from stored_documents import sql

from ingestion_pipeline.adapters.postgres import connection as adapter
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.migrations import Migrator
from ingestion_pipeline.errors import ConfigurationError, DatabaseUnavailableError, IngestionError, MigrationError
from ingestion_pipeline.local_stack.embedded_postgres import EmbeddedPostgres

TRICKY_PASSWORD = "p@ss/w:rd%#?&='\" é"
MIGRATE = (
    "import sys; from ingestion_pipeline.adapters.postgres.migrations import Migrator; Migrator(sys.argv[1]).migrate()"
)


def with_login(url: str, role: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:{quote(password, safe='')}@{parts.netloc.rpartition('@')[2]}"))


def tables(url: str) -> set[str]:
    return {
        row[0]
        for row in sql(url, "select n.nspname || '.' || c.relname from pg_class as c "
        "join pg_namespace as n on n.oid = c.relnamespace where n.nspname in ('upload_pipeline', 'dagster', 'public') "
        "and c.relkind = 'r'")
    }  # fmt: skip


def start_migrating(url: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", MIGRATE, url], stderr=subprocess.PIPE, text=True)


def test_too_old_a_server_is_refused(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "MINIMUM_SERVER", 990000)
    with pytest.raises(ConfigurationError, match=r"INGEST_DATABASE_URL is PostgreSQL \d+: it must be"):
        Migrator(empty_database_url).migrate()


def test_too_old_a_pgvector_is_refused(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "MINIMUM_PGVECTOR", (99, 0))
    with pytest.raises(ConfigurationError, match=r"INGEST_DATABASE_URL has pgvector \d+\.\d+\.\d+: it must be"):
        Migrator(empty_database_url).migrate()


def test_a_server_without_pgvector_is_refused(empty_database_url: str) -> None:
    # a view of that name before pg_catalog: what this connection sees of a server on which pgvector is not installed
    with closing(psycopg2.connect(empty_database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("create temporary view pg_available_extensions as "
                       "select * from pg_catalog.pg_available_extensions where name <> 'vector'")  # fmt: skip
        cursor.execute("set search_path = pg_temp, pg_catalog")
        with pytest.raises(ConfigurationError, match=r"INGEST_DATABASE_URL has no pgvector: install the extension"):
            adapter.check_server(connection, "INGEST_DATABASE_URL")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda parts: parts._replace(netloc=parts.netloc.rpartition(":")[0] + ":1"), "Connection refused"),
        (lambda parts: parts._replace(path="/nowhere"), 'database "nowhere" does not exist'),
        (lambda parts: parts._replace(netloc="ingest_worker:sesame-9@" + parts.netloc.rpartition("@")[2]), "password"),
    ],
    ids=["nothing listens", "no such database", "wrong password"],
)
def test_a_server_that_lets_nobody_in_is_a_configuration_error_that_names_the_setting(
    postgres_server: PostgresServer, change, reason: str
) -> None:
    url = urlunsplit(change(urlsplit(postgres_server.url())))
    with pytest.raises(ConfigurationError, match="INGEST_DATABASE_URL") as caught:
        Migrator(url).migrate()
    assert reason in caught.value.message
    assert urlsplit(url).password not in caught.value.message


@pytest.mark.parametrize(
    "broken",
    ["{user}:open@sesame-9@{place}/x", "{user}:open/sesame-9@{place}/x", "{user}:open%sesame-9@{place}/x",
     "{user}:open#sesame-9@{place}/x", "{user}:open?sesame-9@{place}/x", "{user}:open sesame-9@{place}/x",
     "{user}:sesame-9@{place}/x\n"],
)  # fmt: skip
def test_a_password_in_a_misread_url_stays_out_of_the_error(postgres_server: PostgresServer, broken: str) -> None:
    parts = urlsplit(postgres_server.url())
    url = "postgresql://" + broken.format(user=parts.username, place=f"{parts.hostname}:{parts.port}")
    with pytest.raises(ConfigurationError, match=r"INGEST_DATABASE_URL.*percent-encoded") as caught:
        Migrator(url).migrate()
    with pytest.raises(IngestionError, match="percent-encoded") as caught_too:
        Database(url, application_name="test").check()
    assert "sesame" not in str(caught.value) + str(caught_too.value)


@pytest.fixture
def server_without_roles() -> Iterator[PostgresServer]:
    """A server of its own, on which our roles do not exist yet."""
    folder = Path(tempfile.mkdtemp(prefix="ingest-tests-"))
    embedded = EmbeddedPostgres(folder / "postgres", durable=False)
    yield PostgresServer(embedded.start().url())
    embedded.stop()
    shutil.rmtree(folder)


@contextmanager
def owned_by_a_plain_role(server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database whose owner is no superuser but may create roles, as on Supabase."""
    name = f"ingest_plain_{uuid4().hex[:8]}"
    sql(server.url(), f"create role {name} login createrole password %s", (TRICKY_PASSWORD,))
    sql(server.url(), f"create database {name} owner {name}")
    yield with_login(server.url(name), name, TRICKY_PASSWORD)
    server.drop_database(name)
    sql(server.url(), f"drop owned by {name}; drop role {name}")


@pytest.fixture
def plain_owner(postgres_server: PostgresServer) -> Iterator[str]:
    with owned_by_a_plain_role(postgres_server) as url:
        yield url


def test_an_owner_who_may_not_install_pgvector_is_told_who_may(plain_owner: str) -> None:
    with pytest.raises(MigrationError, match=r"let a superuser run CREATE EXTENSION vector in this database"):
        Migrator(plain_owner).migrate()
    assert "upload_pipeline.documents" not in tables(plain_owner)


def test_an_owner_who_is_no_superuser_migrates_up_and_down_once_pgvector_is_there(
    postgres_server: PostgresServer, plain_owner: str
) -> None:
    name = urlsplit(plain_owner).path.removeprefix("/")
    sql(postgres_server.url(name), "create extension vector")
    postgres_server._migrated_template()  # the roles exist already, and are not this owner's to alter
    migrator = Migrator(plain_owner)
    migrations = migrator.migrate()
    assert all(migration.applied for migration in migrations)
    with closing(psycopg2.connect(postgres_server.urls(name).worker)) as worker, worker.cursor() as cursor:
        cursor.execute("create table dagster.runs (id integer)")
        worker.commit()
    for _ in migrations:
        undone = migrator.rollback()
    assert not any(migration.applied for migration in undone)
    assert not {table for table in tables(plain_owner) if not table.startswith("public.ingestion_schema")}
    assert all(migration.applied for migration in migrator.migrate())


def test_a_new_server_can_be_migrated_by_plain_owners_of_two_databases_at_once(
    server_without_roles: PostgresServer,
) -> None:
    with ExitStack() as databases:
        urls = [databases.enter_context(owned_by_a_plain_role(server_without_roles)) for _ in range(2)]
        for url in urls:
            sql(server_without_roles.url(urlsplit(url).path[1:]), "create extension vector")
        running = [start_migrating(url) for url in urls]
        assert [process.communicate(timeout=60)[1] for process in running] == ["", ""]
        (creator,) = [
            url
            for url in urls
            if sql(url, "select pg_has_role(current_user, 'ingest_api', 'member with admin option')") == [(True,)]
        ]
        worker, api = (with_login(creator, role, TRICKY_PASSWORD) for role in ("ingest_worker", "ingest_api"))
        Migrator(creator).provision_logins(worker, api)
        assert sql(worker, "show search_path") == sql(api, "show search_path") == [("public, extensions",)]


def test_an_owner_who_may_not_set_a_roles_password_is_told_so(
    postgres_server: PostgresServer, plain_owner: str
) -> None:
    sql(postgres_server.url(urlsplit(plain_owner).path[1:]), "create extension vector")
    urls = postgres_server.urls(postgres_server._migrated_template())
    migrator = Migrator(plain_owner)
    migrator.migrate()
    with pytest.raises(ConfigurationError, match=r"INGEST_DATABASE_URL may not set the password of ingest_worker"):
        migrator.provision_logins(urls.worker, urls.api)


def test_roles_log_in_with_the_passwords_of_their_urls_whatever_characters_these_have(
    postgres_server: PostgresServer, database_urls: DatabaseUrls
) -> None:
    worker = with_login(database_urls.owner, "ingest_worker", TRICKY_PASSWORD)
    api = with_login(database_urls.owner, "ingest_api", TRICKY_PASSWORD + "2")
    migrator = Migrator(database_urls.owner)
    try:
        migrator.provision_logins(worker, api)
        assert sql(worker, "select current_user") == [("ingest_worker",)]
        assert sql(api, "select current_user") == [("ingest_api",)]
        hashes = sql(database_urls.owner, "select rolpassword from pg_authid where rolname = 'ingest_worker'")
        assert hashes[0][0].startswith("SCRAM-SHA-256$")
    finally:
        migrator.provision_logins(database_urls.worker, database_urls.api)


def test_the_password_of_a_foreign_role_is_left_alone(database_urls: DatabaseUrls) -> None:
    before = sql(database_urls.owner, "select rolname, rolpassword from pg_authid order by 1")
    foreign = with_login(database_urls.owner, urlsplit(database_urls.owner).username or "", "other")
    Migrator(database_urls.owner).provision_logins(foreign, foreign)
    assert sql(database_urls.owner, "select rolname, rolpassword from pg_authid order by 1") == before


def test_the_runtime_says_which_command_is_missing_before_the_first_migration(empty_database_url: str) -> None:
    database = Database(empty_database_url, application_name="test")
    with pytest.raises(ConfigurationError, match="run `ingest db migrate`"):
        database.check()
    Migrator(empty_database_url).migrate()
    database.check()
    database.close()


def test_a_server_that_is_away_is_a_transient_error_at_run_time(postgres_server: PostgresServer) -> None:
    parts = urlsplit(postgres_server.url())
    url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition(":")[0] + ":1"))
    with pytest.raises(DatabaseUnavailableError, match="Connection refused") as caught:
        Database(url, application_name="test").check()
    assert (parts.password or "none") not in str(caught.value)
