"""Pooled connections, transactions that know their actor and owner, and the classification of database errors."""

import json
import select
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from uuid import UUID

import psycopg2
import psycopg2.extensions
import psycopg2.extras
from sqlalchemy import create_engine
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ingestion_pipeline.adapters.postgres.queries import MIGRATIONS, queries
from ingestion_pipeline.errors import ConfigurationError, DatabaseUnavailableError
from ingestion_pipeline.settings import check_postgres_url

MINIMUM_SERVER = 150000
MINIMUM_PGVECTOR = (0, 7)
POOL_WAIT_SECONDS = 30
IDLE_SECONDS = 30.0  # of a transaction that nobody goes on with
Connection = psycopg2.extensions.connection

psycopg2.extras.register_uuid()  # type: ignore[no-untyped-call]  # its stub has no types


@contextmanager
def classified() -> Iterator[None]:
    """Turn the driver's errors of a server that is away, restarting or overloaded into DatabaseUnavailableError.

    Other driver errors (constraints, syntax) are bugs of ours and pass as they are.
    """
    try:
        yield
    except (psycopg2.OperationalError, psycopg2.InterfaceError, PoolTimeoutError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatabaseUnavailableError(f"Postgres is not available: {reason}") from error


def connect(url: str, *, application_name: str) -> Connection:
    """A new connection. Raises ConfigurationError for a URL that the driver would misread, and quote in its error."""
    try:
        check_postgres_url(url)
    except ValueError as problem:
        raise ConfigurationError(f"the database's URL can't be used: {problem}") from None
    return psycopg2.connect(url, application_name=application_name, connect_timeout=10)


class Database:
    """A pool of connections of one role, shared by threads; one that finds the pool empty waits its turn.

    `setting` is where the URL came from, for the messages of `check`.
    """

    def __init__(
        self, url: str, *, application_name: str, setting: str = "INGEST_DATABASE_URL", max_connections: int = 10
    ) -> None:
        self._setting = setting
        self._connect = partial(connect, url, application_name=application_name)
        self._engine = create_engine(
            "postgresql+psycopg2://",
            creator=self._connect,
            pool_size=max_connections,
            max_overflow=0,
            pool_timeout=POOL_WAIT_SECONDS,
            pool_pre_ping=True,
            pool_use_lifo=True,
            use_native_hstore=False,  # else each connection first asks for that type
        )

    @contextmanager
    def transaction(self, *, actor: str, owner_id: UUID | None = None) -> Iterator[Connection]:
        """One transaction, committed at the end of the block or rolled back on an error.

        `actor` is who appears in the history; `owner_id` is for whom row-level security lets rows through.
        Raises DatabaseUnavailableError, also when the server went away in the middle (nothing was committed then,
        unless it went away during the commit itself: writes are idempotent for that).
        """
        claims = json.dumps({"sub": str(owner_id), "role": "authenticated"}) if owner_id else ""
        with classified():
            pooled = self._engine.raw_connection()
            try:
                connection = pooled.driver_connection
                assert isinstance(connection, Connection)
                idle = f"{IDLE_SECONDS * 1000:.0f}"
                queries().begin(connection, actor=actor, claims=claims, idle_milliseconds=idle)
                yield connection
                connection.commit()
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                pooled.invalidate()
                raise
            finally:
                pooled.close()  # gives it back; whatever was not committed is rolled back

    @contextmanager
    def announcements(self) -> Iterator[Callable[[str, float], bool]]:
        """Hears what the database announces from now on, over a connection of its own.

        Yields a function that waits for a payload, at most so many seconds, and tells whether it came. Where a pooler
        in between does not pass announcements on, nothing ever comes. Raises DatabaseUnavailableError.
        """
        with classified(), closing(self._connect()) as connection:
            connection.autocommit = True
            queries().listen_for_work(connection)

            def wait(payload: str, seconds: float) -> bool:
                deadline = time.monotonic() + seconds
                while True:
                    connection.poll()
                    heard = {notice.payload for notice in connection.notifies}
                    connection.notifies.clear()
                    if payload in heard:
                        return True
                    remaining = deadline - time.monotonic()
                    if remaining <= 0 or not select.select([connection], [], [], remaining)[0]:
                        return False

            yield wait

    def close(self) -> None:
        """Close idle connections."""
        self._engine.dispose()

    def check(self) -> None:
        """Raise unless the server answers, is recent enough and has pgvector and our schema, as new as this code's."""
        with self.transaction(actor="check") as connection:
            check_server(connection, self._setting)
            schema = queries().schema_exists(connection)
            if not schema["present"]:
                raise ConfigurationError(
                    f"the database of {self._setting} has no ingestion schema: run `ingest db migrate`"
                )
            applied = queries().applied_migrations(connection)["versions"] if schema["tells_migrations"] else []
            if {path.name.split("_", 1)[0] for path in MIGRATIONS.glob("*.sql")} - set(applied):
                raise ConfigurationError(
                    f"the schema in the database of {self._setting} is older than this version: run `ingest db migrate`"
                )


def check_server(connection: Connection, setting: str) -> None:
    """Raises ConfigurationError unless the server is PostgreSQL 15 or later with pgvector 0.7 or later available."""
    if connection.server_version < MINIMUM_SERVER:
        major = connection.server_version // 10000
        raise ConfigurationError(f"the server of {setting} is PostgreSQL {major}: it must be 15 or later")
    found = queries().pgvector_version(connection)
    if found is None:
        raise ConfigurationError(
            f"the server of {setting} has no pgvector: install the extension `vector`, version 0.7 or later"
        )
    version = found["version"]
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_PGVECTOR:
        raise ConfigurationError(f"the server of {setting} has pgvector {version}: it must be 0.7 or later")
