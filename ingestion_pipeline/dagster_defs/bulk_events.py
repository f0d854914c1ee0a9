"""Many events of a step written at once, as Dagster writes them one by one.

Dagster's own way costs milliseconds an event, and a document has fifteen: a transaction for each, and a fifth of a
millisecond to make its text, of which two events of one form share nearly all. This is the one module that uses
internals of Dagster's event storage; a test holds its rows against those that Dagster writes itself. Sources:
dagster._core.events.DagsterEvent.from_step, dagster_postgres.PostgresEventLogStorage.store_event.
"""

import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from io import BytesIO
from json.encoder import encode_basestring_ascii
from math import isfinite
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple, Self

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
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy import Connection, text


class Kind(Enum):
    """What an event says of a partition. A planned one is red if its run fails before it is materialised."""

    MATERIALIZED = DagsterEventType.ASSET_MATERIALIZATION
    OBSERVED = DagsterEventType.ASSET_OBSERVATION
    CHECKED = DagsterEventType.ASSET_CHECK_EVALUATION
    PLANNED = DagsterEventType.ASSET_MATERIALIZATION_PLANNED


class Markdown(str):
    """A value that Dagster's UI shows as Markdown."""

    __slots__ = ()


class PartitionEvent(NamedTuple):
    """An event of one partition of an asset; `check` and `passed` are those of a check that was made."""

    kind: Kind
    asset: str
    partition: str
    description: str | None = None
    metadata: Mapping[str, int | float | str] = MappingProxyType({})
    check: str = ""
    passed: bool = True

    def in_dagster(self) -> dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation:
        """As a step would yield it. Nothing is yielded for a planned one."""
        metadata = {
            name: dg.MetadataValue.md(value) if isinstance(value, Markdown) else value
            for name, value in self.metadata.items()
        }
        if self.kind is Kind.CHECKED:
            return dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(self.asset),
                check_name=self.check,
                passed=self.passed,
                description=self.description,
                metadata=metadata,
                partition=self.partition,
                blocking=False,  # the pipeline itself has stopped this document; the others of the batch go on
            )
        make = dg.AssetMaterialization if self.kind is Kind.MATERIALIZED else dg.AssetObservation
        return make(self.asset, partition=self.partition, description=self.description, metadata=metadata)


COPY_BLOCK_BYTES = 1 << 18
LOCK_EVENTS = text("lock table event_logs in share row exclusive mode")
# While the table is locked, for all others wait for the lock before they take theirs.
TAKE_IDS = text("""
select setval(ids.name, nextval(ids.name) + :count - 1) from pg_get_serial_sequence('event_logs', 'id') as ids (name)
""")

# The columns of many rows come as texts of lines: a driver's array is an expression for each value, five times as dear.

# Whether the last materialisation is later than the last plan, which is that of a run that failed or that an operator
# started. The last entry up to a key is found by idx_events_by_asset_partition alone: asked for equality, a server that
# has no statistics yet goes through all events of the asset by another index.
STANDING = text("""
select made.position
from unnest(string_to_array(:assets, chr(10)), string_to_array(:partitions, chr(10)))
with ordinality as made (asset, partition, position)
cross join lateral (
    select
        max(last.id) filter (where kind = 'ASSET_MATERIALIZATION') as materialized,
        max(last.id) filter (where kind = 'ASSET_MATERIALIZATION_PLANNED') as planned
    from unnest(array['ASSET_MATERIALIZATION', 'ASSET_MATERIALIZATION_PLANNED']) as kind
    cross join lateral (
        select e.asset_key, e.dagster_event_type, e.partition, e.id from event_logs as e
        where
            e.asset_key is not null and e.partition is not null
            and (e.asset_key, e.dagster_event_type, e.partition) <= (made.asset, kind, made.partition)
        order by e.asset_key desc, e.dagster_event_type desc, e.partition desc, e.id desc
        limit 1
    ) as last
    where (last.asset_key, last.dagster_event_type, last.partition) = (made.asset, kind, made.partition)
) as found
where found.materialized > coalesce(found.planned, 0)
""")
# The events themselves are there already, so they are not sent again.
UPSERT_CHECKS = text("""
insert into asset_check_executions (
    asset_key, check_name, partition, run_id, execution_status,
    evaluation_event, evaluation_event_timestamp, evaluation_event_storage_id
)
select made.asset_key, made.check_name, made.partition, told.run_id, made.status, told.event, told.timestamp, told.id
from unnest(
    cast(string_to_array(:ids, chr(10)) as bigint[]), string_to_array(:assets, chr(10)),
    string_to_array(:checks, chr(10)), string_to_array(:partitions, chr(10)), string_to_array(:statuses, chr(10))
) as made (id, asset_key, check_name, partition, status)
cross join lateral (
    select e.id, e.run_id, e.event, e.timestamp from event_logs as e where e.id = made.id offset 0
) as told
on conflict (asset_key, check_name, run_id, partition) do update
set execution_status = excluded.execution_status, evaluation_event = excluded.evaluation_event,
    evaluation_event_timestamp = excluded.evaluation_event_timestamp,
    evaluation_event_storage_id = excluded.evaluation_event_storage_id
""")


class EventWriter:
    """Writes events of the running step. One for the whole step: it learns the forms of events.

    A context manager: the rows of the assets themselves, of which each is as dear as a hundred events, get the last
    events at the end of the block. If it is never reached, those of an earlier run stay: Dagster has every asset's last
    events from the log (see `event_log`).
    """

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self._storage = context.instance.event_log_storage
        self._forms: dict[Hashable, _Form] = {}
        self._columns: tuple[str, ...] = ()
        self._last: dict[tuple[str, Kind], tuple[int, PartitionEvent]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None and self._last and isinstance(self._storage, PostgresEventLogStorage):
            self._update_assets(self._storage)

    def write(self, events: Sequence[PartitionEvent]) -> None:
        """Write events in their order."""
        if not events:
            return
        if not isinstance(self._storage, PostgresEventLogStorage):
            for event in events:
                self._storage.store_event(_entry(self._context, event))
            return
        now = time.time()
        moment = str(datetime.fromtimestamp(now, UTC).replace(tzinfo=None))
        lines = [self._form(event, self._storage).line(event, now, moment) for event in events]
        with _transaction(self._storage) as connection:
            told = list(zip(_insert_events(connection, self._columns, lines), events, strict=True))
            checks = {event_id: event for event_id, event in told if event.kind is Kind.CHECKED}
            if checks:
                connection.execute(UPSERT_CHECKS, _checks(checks))
        self._last |= {
            (event.asset, event.kind): (event_id, event) for event_id, event in told if event.kind is not Kind.CHECKED
        }

    def standing(self, told: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those (asset, partition) that Dagster has been told of and shows as materialised; none unless on Postgres."""
        if not told or not isinstance(self._storage, PostgresEventLogStorage):
            return set()
        keys = _keys(asset for asset, _ in told)
        wanted = {
            "assets": "\n".join([keys[asset] for asset, _ in told]),
            "partitions": "\n".join([partition for _, partition in told]),
        }
        with self._storage.index_connection() as connection:
            return {told[row.position - 1] for row in connection.execute(STANDING, wanted)}

    def _update_assets(self, storage: PostgresEventLogStorage) -> None:
        """In the order of their names, as every run does: two in other orders could wait for each other."""
        with _transaction(storage) as connection:
            for event_id, event in sorted(self._last.values(), key=lambda last: (last[1].asset, last[0])):
                storage._store_asset_event(connection, _entry(self._context, event), event_id)

    def _form(self, event: PartitionEvent, storage: PostgresEventLogStorage) -> "_Form":
        """What Dagster's event_to_row makes of it. That makes the first of a form; the others differ in some values."""
        kind, asset, _, description, metadata, check, passed = event
        key = (kind, asset, check, passed, description is None, *metadata, *map(type, metadata.values()))
        form = self._forms.get(key)
        if form is None:
            form = self._forms[key] = self._learn(event, storage)
        return form

    def _learn(self, event: PartitionEvent, storage: PostgresEventLogStorage) -> "_Form":
        values = [_mark(value) for value in event.metadata.values()]
        partition, description, moment, column = (secrets.token_hex(16) for _ in range(4))
        marked = event._replace(
            partition=partition,
            description=None if event.description is None else description,
            metadata=dict(zip(event.metadata, values, strict=True)),
        )
        entry = _entry(self._context, marked)
        row = {**storage._event_to_row(entry), "timestamp": moment}
        if row["partition"] == partition:
            row["partition"] = column
        self._columns = tuple(row)
        marks = [*map(_in_event, (partition, description, *values, entry.timestamp)), moment, column]
        line = "\t".join("\\N" if value is None else _in_copy(value) for value in row.values())
        for position, mark in enumerate(marks):
            line = line.replace(mark, f"\0{position}\0")  # no text of Postgres has this character
        pieces = line.split("\0")
        return _Form(pieces, itemgetter(*map(int, pieces[1::2])))


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
    """What Dagster makes of an event of the running step."""
    run = context.run
    if event.kind is Kind.PLANNED:
        asset_key = dg.AssetKey(event.asset)
        planned = DagsterEvent(
            event_type_value=event.kind.value.value,
            job_name=run.job_name,
            message=f"{run.job_name} intends to materialize asset {asset_key.to_string()}",
            event_specific_data=AssetMaterializationPlannedData(asset_key, partition=event.partition),
        )
        return _logged(logging.INFO, "", run, None, planned)
    said = event.in_dagster()
    step_context = context.get_step_execution_context()
    step = step_context.step
    message: str | None
    data: StepMaterializationData | AssetObservationData | dg.AssetCheckEvaluation
    if isinstance(said, dg.AssetMaterialization):
        data = StepMaterializationData(said, [])
        message = user_message = said.description or f"Materialized value {said.label}."
    elif isinstance(said, dg.AssetObservation):
        data = AssetObservationData(said)
        message, user_message = None, f"{event.kind.value} for step {step.key}"
    else:
        data = said
        verdict = "passed" if said.passed else "did not pass"
        message = user_message = (
            f"Asset check '{said.check_name}' on '{said.asset_key.to_user_string()}' {verdict}."
            f" Description: '{said.description}'"
        )
    dagster_event = DagsterEvent(
        event_type_value=event.kind.value.value,
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


@dataclass(frozen=True, slots=True)
class _Form:
    """The line of COPY of the events of one form: its pieces, of which each second varies, and by what values."""

    pieces: list[str]
    values: Callable[[Sequence[str]], tuple[str, ...]]

    def line(self, event: PartitionEvent, now: float, moment: str) -> str:
        """All columns but the id, at a time in seconds since 1970 and as the database tells it."""
        told = [event.partition, event.description or "", *event.metadata.values(), now]
        pieces = self.pieces.copy()
        pieces[1::2] = self.values([*map(_in_event, told), moment, _in_copy(event.partition)])
        return "".join(pieces)


def _mark(value: float | str) -> float | str:
    """A value of the same type that stands nowhere else in an event."""
    if isinstance(value, str):
        return type(value)(secrets.token_hex(16))
    assert not isinstance(value, bool), "a flag has no value that stands nowhere else"
    return type(value)(secrets.randbits(40) + 2**40)


def _in_event(value: float | str) -> str:
    """A value as it stands in the JSON of an event, without the quotation marks of a text, in a line of COPY."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)[1:-1].replace("\\", "\\\\")
    return str(value) if isfinite(value) else json.dumps(value)  # the same, seven times as fast or more


def _in_copy(text: str) -> str:
    """A text in a line of COPY."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


@contextmanager
def _transaction(storage: PostgresEventLogStorage) -> Iterator[Connection]:
    """Dagster's own connections commit each statement."""
    with storage._connect() as connection:
        transaction = connection.execution_options(isolation_level="READ COMMITTED")
        with transaction.begin():
            yield transaction


def _insert_events(transaction: Connection, columns: Sequence[str], lines: Sequence[str]) -> range:
    """The ids of the events, in their order.

    Dagster follows events by their ids, so one that becomes visible after a higher one is never seen: while these are
    written nobody else writes any.
    """
    transaction.execute(LOCK_EVENTS)
    last = transaction.execute(TAKE_IDS, {"count": len(lines)}).scalar_one()
    ids = range(last - len(lines) + 1, last + 1)
    file = BytesIO("\n".join([f"{event_id}\t{line}" for event_id, line in zip(ids, lines, strict=True)]).encode())
    with closing(transaction.connection.cursor()) as cursor:
        copy = f"copy event_logs (id, {', '.join(columns)}) from stdin"
        cursor.copy_expert(copy, file, COPY_BLOCK_BYTES)
    return ids


def _keys(assets: Iterable[str]) -> dict[str, str]:
    """The names of assets as Dagster's tables have them."""
    return {asset: dg.AssetKey(asset).to_string() for asset in set(assets)}


def _checks(made: Mapping[int, PartitionEvent]) -> dict[str, str]:
    """Of checks, by the ids of their events, the parameters of UPSERT_CHECKS.

    A statement writes no row twice: of a check that was made twice, the last result counts.
    """
    last = {(event.asset, event.check, event.partition): event_id for event_id, event in made.items()}
    keys = _keys(asset for asset, _, _ in last)
    status = AssetCheckExecutionRecordStatus
    columns = {
        "ids": map(str, last.values()),
        "assets": (keys[asset] for asset, _, _ in last),
        "checks": (check for _, check, _ in last),
        "partitions": (partition for _, _, partition in last),
        "statuses": ((status.SUCCEEDED if made[each].passed else status.FAILED).value for each in last.values()),
    }
    return {name: "\n".join(values) for name, values in columns.items()}
