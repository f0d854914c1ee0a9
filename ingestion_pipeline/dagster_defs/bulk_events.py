"""Many events of a step written at once, as Dagster writes them one by one.

Dagster's own way costs milliseconds an event, and a document has fifteen. This is the one module that uses internals of
Dagster's event storage; a test holds its rows against those that Dagster writes itself. Sources:
dagster._core.events.DagsterEvent.from_step, dagster_postgres.PostgresEventLogStorage.store_event.
"""

import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    DagsterEvent,
    DagsterEventType,
    StepMaterializationData,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy import Table, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, Insert, insert


@dataclass(frozen=True, slots=True)
class PlannedPartition:
    """A run means to materialise a partition: it is red if the run fails before it does."""

    asset_key: dg.AssetKey
    partition: str


PartitionEvent = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.AssetObservation | PlannedPartition
CHECK_IDENTITY = ("asset_key", "check_name", "run_id", "partition")
ASSET_EVENTS = (
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.ASSET_OBSERVATION,
    DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
)


def write_events(context: dg.AssetExecutionContext, events: Iterable[PartitionEvent]) -> None:
    """Write events of the running step, in their order."""
    entries = [_entry(context, event) for event in events]
    storage = context.instance.event_log_storage
    if not entries:
        return
    if isinstance(storage, PostgresEventLogStorage):
        _write_to_postgres(storage, entries)
    else:
        for entry in entries:
            storage.store_event(entry)


def forget_planned_checks(context: dg.AssetExecutionContext) -> None:
    """Take back that this run will evaluate checks: it evaluates those of the stages that its documents come to.

    Dagster plans all checks of a run that is started in its UI, and shows the last that was planned as the last result.
    """
    storage = context.instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        checks = AssetCheckExecutionsTable
        planned = checks.c.execution_status == AssetCheckExecutionRecordStatus.PLANNED.value
        with storage.index_transaction() as connection:
            connection.execute(checks.delete().where(checks.c.run_id == context.run.run_id, planned))


def _entry(context: dg.AssetExecutionContext, event: PartitionEvent) -> EventLogEntry:
    run = context.run
    if isinstance(event, PlannedPartition):
        planned = DagsterEvent(
            event_type_value=DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
            job_name=run.job_name,
            message=f"{run.job_name} intends to materialize asset {event.asset_key.to_string()}",
            event_specific_data=AssetMaterializationPlannedData(event.asset_key, partition=event.partition),
        )
        return _logged(logging.INFO, "", run, None, planned)
    message: str | None
    data: StepMaterializationData | AssetObservationData | dg.AssetCheckEvaluation
    if isinstance(event, dg.AssetMaterialization):
        kind, data = DagsterEventType.ASSET_MATERIALIZATION, StepMaterializationData(event, [])
        message = user_message = event.description or f"Materialized value {event.label}."
    elif isinstance(event, dg.AssetObservation):
        kind, data = DagsterEventType.ASSET_OBSERVATION, AssetObservationData(event)
        message, user_message = None, f"{kind} for step {context.get_step_execution_context().step.key}"
    else:
        kind, data = DagsterEventType.ASSET_CHECK_EVALUATION, event
        verdict = "passed" if event.passed else "did not pass"
        message = user_message = (
            f"Asset check '{event.check_name}' on '{event.asset_key.to_user_string()}' {verdict}."
            f" Description: '{event.description}'"
        )
    step_context = context.get_step_execution_context()
    step = step_context.step
    dagster_event = DagsterEvent(
        event_type_value=kind.value,
        job_name=run.job_name,
        step_handle=step.handle,
        node_handle=step.node_handle,
        step_kind_value=step.kind.value,
        logging_tags=step_context.event_tags,
        event_specific_data=data,
        message=message,
        pid=os.getpid(),
        step_key=step.key,
    )
    return _logged(logging.DEBUG, user_message, run, step.key, dagster_event)


def _logged(level: int, message: str, run: dg.DagsterRun, step_key: str | None, event: DagsterEvent) -> EventLogEntry:
    now = time.time()
    return EventLogEntry(None, level, message, run.run_id, now, step_key, run.job_name, event)  # type: ignore[no-untyped-call]


def _write_to_postgres(storage: PostgresEventLogStorage, entries: Sequence[EventLogEntry]) -> None:
    rows = [storage._event_to_row(entry) for entry in entries]
    storage_ids = _insert_events(storage, rows)
    checks = []
    with storage.index_transaction() as connection:
        newest: dict[tuple[str, dg.AssetKey], int] = {}
        for position, entry in enumerate(entries):
            event = entry.get_dagster_event()
            if event.event_type in ASSET_EVENTS:
                assert event.asset_key is not None
                newest.pop((event.event_type_value, event.asset_key), None)  # so that the order is that of the events
                newest[event.event_type_value, event.asset_key] = position
            else:
                checks.append(_check_row(event, rows[position], storage_ids[position]))
        for position in newest.values():
            storage._store_asset_event(connection, entries[position], storage_ids[position])
        if checks:
            upsert = _insert(AssetCheckExecutionsTable, _last_of_each(checks))
            names = (
                "execution_status", "evaluation_event", "evaluation_event_timestamp", "evaluation_event_storage_id"
            )  # fmt: skip
            connection.execute(
                upsert.on_conflict_do_update(
                    index_elements=CHECK_IDENTITY, set_={name: upsert.excluded[name] for name in names}
                )
            )


def _insert_events(storage: PostgresEventLogStorage, rows: Sequence[dict[str, object]]) -> list[int]:
    """The ids of the rows, in their order.

    Dagster follows events by their ids, so one that becomes visible after a higher one is never seen: while these are
    written nobody else writes any.
    """
    with storage._connect() as connection:
        transaction = connection.execution_options(isolation_level="READ COMMITTED")
        with transaction.begin():
            transaction.execute(text(f"lock table {SqlEventLogStorageTable.name} in share row exclusive mode"))
            written = transaction.execute(
                _insert(SqlEventLogStorageTable, rows).returning(SqlEventLogStorageTable.c.id)
            )
            return sorted(int(row[0]) for row in written)


def _insert(table: Table, rows: Sequence[dict[str, object]]) -> Insert:
    """One statement for any number of rows: an array for each column costs a fraction of a parameter for each value."""
    names = list(rows[0])
    columns = [
        bindparam(None, [row[name] for row in rows], type_=ARRAY(table.c[name].type), unique=True) for name in names
    ]
    values = func.unnest(*columns).table_valued(*names, with_ordinality="position", name="values").render_derived()
    ordered = select(*(values.c[name] for name in names)).order_by(values.c.position)
    return insert(table).from_select(names, ordered)


def _last_of_each(checks: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """A statement writes no row twice: of a check that was made twice, the last result counts."""
    return list({tuple(check[name] for name in CHECK_IDENTITY): check for check in checks}.values())


def _check_row(event: DagsterEvent, row: dict[str, object], storage_id: int) -> dict[str, object]:
    evaluation = event.asset_check_evaluation_data
    status = AssetCheckExecutionRecordStatus.SUCCEEDED if evaluation.passed else AssetCheckExecutionRecordStatus.FAILED
    return {
        "asset_key": evaluation.asset_key.to_string(),
        "check_name": evaluation.check_name,
        "partition": evaluation.partition,
        "run_id": row["run_id"],
        "execution_status": status.value,
        "evaluation_event": row["event"],
        "evaluation_event_timestamp": row["timestamp"],
        "evaluation_event_storage_id": storage_id,
    }
