"""The HNSW index over the vectors that search serves: built and dropped while the pipeline works, never needed.

Source: pgvector's README, "HNSW"; PostgreSQL documentation, CREATE INDEX, "Building Indexes Concurrently".
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg2

from ingestion_pipeline.adapters.postgres.connection import Connection, check_server, classified, connect
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.domain import Precision
from ingestion_pipeline.errors import VectorIndexError

PROGRESS_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """pgvector's parameters of an index, and what its build may use: memory in MB, processes beside its own."""

    m: int = 16
    ef_construction: int = 64
    memory_mb: int = 512
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a build is: PostgreSQL's name of the phase, and which share of the phase is done, if that is known."""

    phase: str
    share: float | None


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """The vectors that search serves, and the index over them.

    `kind` is None if there is no index. One that is not valid is being built (`progress`) or was left by a crash.
    """

    vectors: int
    owners: int
    most_of_one_owner: int
    vector_bytes: int
    precision: Precision
    kind: str | None
    is_valid: bool
    index_bytes: int
    progress: Progress | None


class VectorIndex:
    """Looks after the index of one database, as the role of `url`, which owns the schema."""

    def __init__(self, url: str) -> None:
        self._url = url

    def status(self) -> IndexStatus:
        """How things are now."""
        with self._connected() as connection:
            return _status(connection)

    def build(self, options: BuildOptions, on_progress: Callable[[Progress], None]) -> None:
        """Build the index, unless a valid one is there; one that a crash left in pieces is dropped first.

        Interrupted, it leaves none behind. Raises VectorIndexError.
        """
        with self._locked() as builder, self._connected() as watcher:
            status = _status(builder)
            if status.kind and status.is_valid:
                return
            queries().drop_index(builder)
            queries().prepare_index_build(builder, memory=f"{options.memory_mb}MB", workers=str(options.workers))
            with ThreadPoolExecutor(1, thread_name_prefix="vector-index") as pool:
                building = pool.submit(_build, builder, status.precision, options)
                try:
                    _watch(building, watcher, on_progress)
                except BaseException:  # Ctrl-C, or what the watcher met: the server would go on building
                    builder.cancel()
                    wait([building])
                    queries().drop_index(builder)
                    raise

    def drop(self) -> bool:
        """Drop the index; tells whether there was one. Raises VectorIndexError while one is being built."""
        with self._locked() as connection:
            is_there = queries().index_facts(connection) is not None
            queries().drop_index(connection)
            return is_there

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with classified(), closing(connect(self._url, application_name="ingest-index")) as connection:
            connection.autocommit = True
            check_server(connection, "INGEST_DATABASE_URL")
            if not queries().schema_exists(connection)["present"]:
                raise VectorIndexError("the database has no ingestion schema: run `ingest db migrate`")
            yield connection

    @contextmanager
    def _locked(self) -> Iterator[Connection]:
        with self._connected() as connection:
            if not queries().try_index_lock(connection)["locked"]:
                raise VectorIndexError("an index is being built: see `ingest index status`, and wait for its end")
            try:
                yield connection
            finally:
                with suppress(psycopg2.Error):  # a server ends a session some time after its client has left it
                    queries().release_index_lock(connection)


def _build(connection: Connection, precision: Precision, options: BuildOptions) -> None:
    build = queries().build_half_index if precision is Precision.HALF else queries().build_full_index
    with connection.cursor() as cursor:
        cursor.execute(build.sql, {"m": options.m, "ef_construction": options.ef_construction})


def _watch(building: "Future[None]", watcher: Connection, on_progress: Callable[[Progress], None]) -> None:
    while not wait([building], PROGRESS_SECONDS).done:
        progress = _progress(watcher)
        if progress:
            on_progress(progress)
    try:
        building.result()
    except psycopg2.errors.QueryCanceled:
        raise VectorIndexError("the build was cancelled on the server; run it again") from None


def _status(connection: Connection) -> IndexStatus:
    served = queries().served_vectors(connection)
    index: dict[str, Any] | None = queries().index_facts(connection)
    return IndexStatus(
        vectors=served["vectors"],
        owners=served["owners"],
        most_of_one_owner=served["most_of_one_owner"],
        vector_bytes=served["size_bytes"],
        precision=Precision(queries().vector_precision(connection)["precision"]),
        kind=f"{index['method']} ({', '.join(index['options'] or ())})" if index else None,
        is_valid=bool(index and index["is_valid"]),
        index_bytes=index["size_bytes"] if index else 0,
        progress=_progress(connection),
    )


def _progress(connection: Connection) -> Progress | None:
    row = queries().index_progress(connection)
    if row is None:
        return None
    return Progress(row["phase"], row["blocks_done"] / row["blocks_total"] if row["blocks_total"] else None)
