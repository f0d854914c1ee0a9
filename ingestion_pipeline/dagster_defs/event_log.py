"""Dagster's event log in Postgres, with asset records of one moment and a short statement that adds partitions.

Dagster keeps the colours of an asset's partitions up to the id of the last event that it saw. Its own records take the
last materialisation from a row that is written after the event, and the last plan from the log, later: an event that
comes between was never looked at again, and a mended document stayed red for good. Source:
dagster._core.storage.partition_status_cache.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.base import AssetRecord
from dagster._record import copy
from dagster._serdes import deserialize_value
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy import text

# Both by idx_events_by_asset, from its end.
LAST_EVENTS = text("""
select asset, materialized.id as materialized_id, materialized.event, planned.id as planned_id, planned.run_id
from unnest(cast(:assets as text[])) as asset
left join lateral (
    select id, event from event_logs
    where asset_key = asset and dagster_event_type = 'ASSET_MATERIALIZATION' order by id desc limit 1
) as materialized on true
left join lateral (
    select id, run_id from event_logs
    where asset_key = asset and dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED' order by id desc limit 1
) as planned on true
""")
ADD_PARTITIONS = text("""
insert into dynamic_partitions (partitions_def_name, partition)
select :name, key from unnest(cast(:keys as text[])) as key
on conflict do nothing
""")


class ConsistentEventLogStorage(PostgresEventLogStorage):
    """dagster_postgres.PostgresEventLogStorage; an asset's record holds its last events, read by one statement."""

    @property
    def asset_records_have_last_planned_and_failed_materializations(self) -> bool:
        """Dagster takes the last plan from the record and does not ask for it."""
        return True

    def add_dynamic_partitions(self, partitions_def_name: str, partition_keys: Sequence[str]) -> None:
        """Add those that are not there yet. Dagster's statement names each key, which takes longer than writing it."""
        with self.index_connection() as connection:
            connection.execute(ADD_PARTITIONS, {"name": partitions_def_name, "keys": list(partition_keys)})

    def get_asset_records(self, asset_keys: Sequence[dg.AssetKey] | None = None) -> Sequence[AssetRecord]:
        """The records of these assets, or of all."""
        records = super().get_asset_records(asset_keys)
        names = [record.asset_entry.asset_key.to_string() for record in records]
        with self.index_connection() as connection:
            last = {row["asset"]: row for row in connection.execute(LAST_EVENTS, {"assets": names}).mappings()}
        return [_with_last_events(record, last[name]) for record, name in zip(records, names, strict=True)]


def _with_last_events(record: AssetRecord, last: Any) -> AssetRecord:
    entry = record.asset_entry
    changes = {
        "last_planned_materialization_storage_id": last["planned_id"],
        "last_planned_materialization_run_id": last["run_id"],
    }
    if last["materialized_id"] not in (None, entry.last_materialization_storage_id):
        event = deserialize_value(last["event"], EventLogEntry)
        wiped = entry.asset_details.last_wipe_timestamp if entry.asset_details else None
        if wiped is None or event.timestamp > wiped:
            changes["last_materialization_record"] = dg.EventLogRecord(last["materialized_id"], event)
    return copy(record, asset_entry=copy(entry, **changes))
