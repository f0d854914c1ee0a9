"""Dagster's storage in Postgres over one pool of connections a process.

Dagster opens a connection for each statement, which costs more than the statement. The pool asks whether one is
alive before it lends it, so a restart of Postgres is survived as before.
"""

import os
from functools import cache
from typing import Any

from dagster._core.storage.config import pg_config
from dagster._serdes import ConfigurableClassData
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy import Engine, create_engine

from ingestion_pipeline.dagster_defs.event_log import ConsistentEventLogStorage

KEPT_CONNECTIONS = 2
MORE_CONNECTIONS = 20


class PooledPostgresStorage(DagsterPostgresStorage):
    """dagster_postgres.DagsterPostgresStorage; events, runs and schedules share the pool."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._event_log_storage = ConsistentEventLogStorage(self.postgres_url, should_autocreate_tables=False)
        self._run_storage = _RunStorage(self.postgres_url, should_autocreate_tables=False)
        for storage in (self._event_log_storage, self._run_storage, self._schedule_storage):
            storage._engine = _engine_of_process(self.postgres_url, os.getpid())

    @classmethod
    def config_type(cls) -> Any:
        """As dagster_postgres: `postgres_url` or its parts."""
        return pg_config()

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "PooledPostgresStorage":
        """What dagster.yaml makes."""
        return cls(
            postgres_url=pg_url_from_config(config_value),
            should_autocreate_tables=config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
        )


class _RunStorage(PostgresRunStorage):
    """dagster_postgres.PostgresRunStorage, which looks at the columns of its table for each event of a run."""

    _has_columns = False

    def has_run_stats_index_cols(self) -> bool:
        """Whether the table of runs has the columns of their times; once it has, it keeps them."""
        self._has_columns = self._has_columns or super().has_run_stats_index_cols()
        return self._has_columns


@cache
def _engine_of_process(url: str, process_id: int) -> Engine:  # noqa: ARG001 - connections must not cross a fork
    return create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_pre_ping=True,
        pool_size=KEPT_CONNECTIONS,
        max_overflow=MORE_CONNECTIONS,
        use_native_hstore=False,  # else each connection first asks for that type
    )
