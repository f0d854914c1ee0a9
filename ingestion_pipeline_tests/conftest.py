"""What every suite shares: a PostgreSQL server, a migrated database for each test that asks for one, and who runs what.

- `postgres_server` (session): an embedded server made for this run, or the one of INGEST_TEST_DATABASE_URL, a
  postgresql:// URL of a superuser on a server that is there for tests: the passwords of its roles ingest_worker and
  ingest_api are set anew.
- `database_urls`: a migrated, empty database for one test, as `DatabaseUrls(owner, worker, api)`.
- `empty_database_url`: a database without our schema, as the owner's URL.
- `api`: the HTTP API on a socket, over `database_urls` and a folder of objects; see running_api.RunningApi.
- `postgres_server.create_database()` and `.drop_database(name)`: more of them, for tests that need several.
"""

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg2
import pytest
from psycopg2 import sql
from xdist.scheduler import LoadScopeScheduling

from ingestion_pipeline.adapters.postgres.migrations import Migrator
from ingestion_pipeline.local_stack.embedded_postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from running_api import RunningApi


SLOWEST = "ingestion_pipeline_tests/e2e/"
SHARING_A_STACK = tuple(
    SLOWEST + name
    for name in ("test_audit.py", "test_browser.py", "test_documents.py", "test_operation.py", "test_vendor_outage.py")
)


ON_THEIR_OWN = "ingestion_pipeline_tests/faults/test_cells.py"  # what they share, a worker has once


class FilesAtATime(LoadScopeScheduling):
    """Hands each worker of `pytest -n` whole files, so that what a file starts is started once, in their order here."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        if file == ON_THEIR_OWN:
            return nodeid
        return SLOWEST if file in SHARING_A_STACK else file


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest first: what starts last decides when all are done."""
    items.sort(key=lambda item: not item.nodeid.startswith(SLOWEST))


def pytest_configure() -> None:
    """Processes of tests end by SIGINT also where a shell has its background jobs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesAtATime:
    """Called by xdist."""
    config.option.loadscopereorder = False
    return FilesAtATime(config, log)


@dataclass(frozen=True)
class DatabaseUrls:
    """One database as the three roles reach it: who owns the schema, Dagster's workers, the HTTP API."""

    owner: str = field(repr=False)
    worker: str = field(repr=False)
    api: str = field(repr=False)

    @property
    def name(self) -> str:
        """The database's name."""
        return urlsplit(self.owner).path.removeprefix("/")


class PostgresServer:
    """A server on which tests make and drop databases; `url` is a superuser's."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        # The same in all workers of a run: roles belong to the server, which they may share.
        self._password = os.environ.get("PYTEST_XDIST_TESTRUNUID") or secrets.token_urlsafe(16)
        self._template: str | None = None

    def url(self, database: str = "postgres") -> str:
        """The superuser's URL of a database."""
        return urlunsplit(self._parts._replace(path=f"/{database}"))

    def urls(self, database: str) -> DatabaseUrls:
        """The URLs of a migrated database."""
        return DatabaseUrls(
            owner=self.url(database),
            worker=self._role_url("ingest_worker", database),
            api=self._role_url("ingest_api", database),
        )

    def create_database(self, *, migrated: bool = True, template: str | None = None) -> DatabaseUrls:
        """A new database: a copy of one that was migrated once, or one without our schema, or a copy of `template`."""
        name = f"ingest_test_{secrets.token_hex(8)}"
        template = template or (self._migrated_template() if migrated else "template1")
        # Copying the template's files costs a quarter of what the default, writing all of it to the log, does.
        self._administer("create database {} template {} strategy file_copy", name, template)
        return self.urls(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, also when connections to it are still open."""
        self._administer("drop database if exists {} with (force)", name)

    def close(self) -> None:
        """Drop what tests shared."""
        if self._template is not None:
            self.drop_database(self._template)

    def _migrated_template(self) -> str:
        if self._template is None:
            name = f"ingest_template_{secrets.token_hex(8)}"
            self._administer("create database {} template {}", name, "template1")
            migrator = Migrator(self.url(name))
            migrator.migrate()
            urls = self.urls(name)
            migrator.provision_logins(urls.worker, urls.api)
            self._template = name
        return self._template

    def _role_url(self, role: str, database: str) -> str:
        place = self._parts.netloc.rpartition("@")[2]
        netloc = f"{role}:{quote(self._password)}@{place}"
        return urlunsplit(self._parts._replace(netloc=netloc, path=f"/{database}"))

    def _administer(self, statement: str, *names: str) -> None:
        with closing(psycopg2.connect(self.url())) as connection:
            connection.autocommit = True  # databases are not made inside transactions
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this run: an embedded one in a folder of its own, unless INGEST_TEST_DATABASE_URL names one."""
    given = os.environ.get("INGEST_TEST_DATABASE_URL")
    if given:
        server = PostgresServer(given)
        yield server
        server.close()
        return
    folder = Path(tempfile.mkdtemp(prefix="ingest-tests-"))
    embedded = EmbeddedPostgres(folder / "postgres", durable=False)
    try:
        yield PostgresServer(embedded.start().url())
    finally:
        embedded.stop()
        shutil.rmtree(folder)


@pytest.fixture
def database_urls(postgres_server: PostgresServer) -> Iterator[DatabaseUrls]:
    """A migrated, empty database that only this test uses."""
    urls = postgres_server.create_database()
    yield urls
    postgres_server.drop_database(urls.name)


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database without our schema that only this test uses, as its owner's URL."""
    urls = postgres_server.create_database(migrated=False)
    yield urls.owner
    postgres_server.drop_database(urls.name)


@pytest.fixture
def api(database_urls: DatabaseUrls, tmp_path: Path) -> "Iterator[RunningApi]":
    """The API, served for one test."""
    from running_api import RunningApi  # suites without the API don't pay for its imports

    running = RunningApi(database_urls.api, tmp_path / "objects")
    running.start()
    yield running
    running.stop()
