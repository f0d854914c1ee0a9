"""What Postgres remembers of Dagster's partitions."""

from collections.abc import Callable, Sequence
from uuid import UUID

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.queries import queries, uuid_array
from ingestion_pipeline.domain import State
from ingestion_pipeline.partitions import PartitionCount

ACTOR = "retention"


class PostgresPartitions:
    """Implements partitions.Partitions, as the workers' role or the schema's owner."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = queries()

    def retire(self, *, settled_seconds: float, limit: int, forget: Callable[[Sequence[UUID]], None]) -> list[UUID]:
        with self._database.transaction(actor=ACTOR) as connection:
            rows = self._queries.lock_retirable(connection, settled_seconds=settled_seconds, limit=limit)
            document_ids = [row["document_id"] for row in rows]
            if document_ids:
                forget(document_ids)
                self._queries.record_retired(connection, document_ids=document_ids)
        return document_ids

    def awaited(self, *, limit: int) -> list[UUID]:
        with self._database.transaction(actor=ACTOR) as connection:
            return [row["document_id"] for row in self._queries.awaited_partitions(connection, limit=limit)]

    def restored(self, document_ids: Sequence[UUID]) -> None:
        with self._database.transaction(actor=ACTOR) as connection:
            self._queries.record_restored(connection, document_ids=uuid_array(document_ids))

    def ask_back(
        self, *, document_ids: Sequence[UUID] | None = None, state: State | None = None, limit: int
    ) -> list[UUID]:
        with self._database.transaction(actor=ACTOR) as connection:
            rows = self._queries.ask_back(
                connection,
                document_ids=None if document_ids is None else uuid_array(document_ids),
                state=state.value if state else None,
                limit=limit,
            )
            return [row["document_id"] for row in rows]

    def counts(self) -> list[PartitionCount]:
        with self._database.transaction(actor=ACTOR) as connection:
            found = {State(row["state"]): row for row in self._queries.count_partitions(connection)}
        return [
            PartitionCount(state, found[state]["documents"], found[state]["retired"], found[state]["awaited"])
            for state in State
            if state in found
        ]
