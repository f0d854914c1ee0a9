"""What Dagster knows of the documents' partitions, for the audit."""

from collections.abc import Iterator, Sequence

import dagster as dg

from ingestion_pipeline.dagster_defs.assets import DOCUMENTS
from ingestion_pipeline.inventory import Told

NAME = str(DOCUMENTS.name)


class DagsterPartitionBook:
    """Implements inventory.PartitionBook over an instance's storage."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def pages(self, limit: int) -> Iterator[list[str]]:
        cursor: str | None = None
        while True:
            page = self._instance.get_paginated_dynamic_partitions(NAME, limit=limit, ascending=True, cursor=cursor)
            yield list(page.results)
            if not page.has_more:
                return
            cursor = page.cursor

    def registered(self, keys: Sequence[str]) -> set[str]:
        return set(self._instance.get_existing_dynamic_partitions(NAME, keys))

    def register(self, keys: Sequence[str]) -> None:
        self._instance.add_dynamic_partitions(NAME, list(keys))

    def forget(self, key: str) -> None:
        self._instance.delete_dynamic_partition(NAME, key)

    def told(self, asset: str, keys: Sequence[str]) -> dict[str, Told]:
        """As Dagster's UI: a partition failed if its latest event is "planned" (see partition_events)."""
        materialised = self._latest(asset, dg.DagsterEventType.ASSET_MATERIALIZATION, keys)
        planned = self._latest(asset, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, keys)
        return {
            key: Told.FAILED if planned.get(key, 0) > materialised.get(key, 0) else Told.DONE
            for key in {*materialised, *planned}
        }

    def _latest(self, asset: str, event_type: dg.DagsterEventType, keys: Sequence[str]) -> dict[str, int]:
        return dict(self._instance.get_latest_storage_id_by_partition(dg.AssetKey(asset), event_type, set(keys)))
