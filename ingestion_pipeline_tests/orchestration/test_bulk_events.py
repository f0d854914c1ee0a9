"""Events written in bulk have the rows that Dagster writes one by one."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dagster as dg
import psycopg2
import psycopg2.extras
from sqlalchemy import text

from ingestion_pipeline.dagster_defs.bulk_events import (
    STANDING,
    EventWriter,
    Kind,
    Markdown,
    PartitionEvent,
)
from orchestration.pipeline_under_test import wait_for

if TYPE_CHECKING:
    from conftest import DatabaseUrls

KEYS = [dg.AssetKey("first"), dg.AssetKey("second")]
PARTITIONS = dg.DynamicPartitionsDefinition(name="documents")
OWN = re.compile(r'"(?:pid|storage_id)": \d+|"timestamp": [0-9.]+|[0-9a-f]{8}-[0-9a-f-]{27}')


def events() -> list[PartitionEvent]:
    """Each kind, for two assets and partitions, with all kinds of metadata; one partition is told of twice."""
    told = []
    for partition in ("one", "two", "one"):
        for asset in ("first", "second"):
            metadata = {
                "name": f'a "{partition}" \u00e4\\.md',
                "count": len(told),
                "large": 2**53,
                "share": len(told) / 7,
                "none": 0.0,
                "preview": Markdown(f"# Title\n\nText of {asset}"),
            }
            told.append(PartitionEvent(Kind.MATERIALIZED, asset, partition, metadata=metadata))
            told += [
                PartitionEvent(
                    *(Kind.CHECKED, asset, partition, f"as it should be: '{partition}'", {"chunks": len(told)}),
                    check=f"passes_{passed}",
                    passed=passed,
                )
                for passed in (True, False)
            ]
        told.append(PartitionEvent(Kind.OBSERVED, "first", partition, f"{partition}\twaits", {"code": "busy"}))
        told.append(PartitionEvent(Kind.OBSERVED, "first", partition, "has an empty text", {"code": ""}))
    told.append(PartitionEvent(Kind.MATERIALIZED, "first", 'th\tr"e\\e %s', "described to 100 %"))
    return told


def definitions(*, in_bulk: bool, told: Callable[[], Sequence[PartitionEvent]] = events) -> dg.Definitions:
    """A job with a step that tells of events, in bulk or as Dagster would."""

    @dg.multi_asset(
        name="step",
        specs=[dg.AssetSpec(key, skippable=True, partitions_def=PARTITIONS) for key in KEYS],
        can_subset=True,
    )
    def step(context: dg.AssetExecutionContext) -> Any:
        if in_bulk:
            with EventWriter(context) as writer:
                writer.write(told())
        else:
            yield from (event.in_dagster() for event in told())

    job = dg.define_asset_job("job", selection=dg.AssetSelection.assets(step), executor_def=dg.in_process_executor)
    return dg.Definitions(assets=[step], jobs=[job])


def rows(url: str) -> dict[str, list[dict[str, Any]]]:
    """What the tables of events hold, without ids and times, which are each run's own; they are emptied."""
    own = {"id", "timestamp", "create_timestamp", "last_materialization_timestamp", "cached_status_data"}
    own |= {"evaluation_event_timestamp", "evaluation_event_storage_id"}
    found = {}
    with closing(psycopg2.connect(url)) as connection, connection:
        cursor = connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor)
        for table, condition, order in (
            ("event_logs", "dagster_event_type like 'ASSET%'", "id"),
            ("asset_keys", "true", "asset_key"),
            ("asset_check_executions", "true", "asset_key, check_name, partition"),
            ("asset_event_tags", "true", "id"),
        ):
            cursor.execute(f"select * from dagster.{table} where {condition} order by {order}")
            found[table] = [
                {name: comparable(value) for name, value in row.items() if name not in own} for row in cursor.fetchall()
            ]
        cursor.execute(
            "select count(*) as others from dagster.event_logs"
            " where abs(extract(epoch from timestamp) - (event::jsonb ->> 'timestamp')::float8) > 0.001"
        )
        assert cursor.fetchone() == {"others": 0}
        cursor.execute("truncate dagster.event_logs, dagster.asset_keys, dagster.asset_check_executions")
    return found


def comparable(value: Any) -> Any:
    return OWN.sub("own", value) if isinstance(value, str) else value


def test_rows_equal_those_that_dagster_writes_one_by_one(
    instance: dg.DagsterInstance, database_urls: "DatabaseUrls"
) -> None:
    told = {}
    for in_bulk in (False, True):
        result = definitions(in_bulk=in_bulk).resolve_job_def("job").execute_in_process(instance=instance)
        assert result.success
        told[in_bulk] = rows(database_urls.owner)
    assert len(told[False]["event_logs"]) > 20
    assert len(told[False]["asset_check_executions"]) == 8
    assert told[True] == told[False]


def test_a_planned_partition_is_red_when_the_run_fails(instance: dg.DagsterInstance) -> None:
    partition = str(uuid4())
    instance.add_dynamic_partitions("documents", [partition])

    @dg.multi_asset(name="step", specs=[dg.AssetSpec("first", skippable=True, partitions_def=PARTITIONS)])
    def step(context: dg.AssetExecutionContext) -> Any:
        yield from ()
        with EventWriter(context) as writer:
            writer.write([PartitionEvent(Kind.PLANNED, "first", partition)])
        raise dg.Failure("as planned")

    job = dg.define_asset_job("job", selection=dg.AssetSelection.assets(step), executor_def=dg.in_process_executor)
    resolved = dg.Definitions(assets=[step], jobs=[job]).resolve_job_def("job")
    assert not resolved.execute_in_process(instance=instance, raise_on_error=False).success
    status = instance.get_status_by_partition(KEYS[0], [partition], PARTITIONS)
    assert status is not None
    assert status[partition] is not None
    assert status[partition].value == "FAILED"


def test_no_event_becomes_visible_after_one_of_a_higher_id(
    instance: dg.DagsterInstance, database_urls: "DatabaseUrls"
) -> None:
    job = definitions(in_bulk=True).resolve_job_def("job")
    with closing(psycopg2.connect(database_urls.owner)) as writer, ThreadPoolExecutor(1) as pool:
        cursor = writer.cursor()
        cursor.execute(
            "insert into dagster.event_logs (run_id, event, timestamp) values ('x', '{}', now()) returning id"
        )
        [(earlier,)] = cursor.fetchall()
        with closing(psycopg2.connect(database_urls.owner)) as watcher:
            watcher.autocommit = True
            running = pool.submit(job.execute_in_process, instance=instance)
            wait_for(lambda: waits_for_a_lock(watcher, "ShareRowExclusiveLock"), "the bulk write to wait for the other")
        writer.commit()
        assert running.result(timeout=60).success
        cursor.execute(
            "select min(id) from dagster.event_logs"
            " where dagster_event_type = 'ASSET_MATERIALIZATION' and partition is not null"
        )
        assert cursor.fetchone()[0] > earlier


def test_runs_that_tell_of_assets_in_other_orders_do_not_lock_each_other_out(
    instance: dg.DagsterInstance, database_urls: "DatabaseUrls"
) -> None:
    assert definitions(in_bulk=True).resolve_job_def("job").execute_in_process(instance=instance).success
    lock = "select from dagster.asset_keys where asset_key = %s for update nowait"
    with closing(psycopg2.connect(database_urls.owner)) as other, ThreadPoolExecutor(1) as pool:
        cursor = other.cursor()

        def backwards() -> list[PartitionEvent]:
            cursor.execute(lock, (KEYS[0].to_string(),))
            return [PartitionEvent(Kind.MATERIALIZED, asset, "one") for asset in ("second", "first")]

        job = definitions(in_bulk=True, told=backwards).resolve_job_def("job")
        with closing(psycopg2.connect(database_urls.owner)) as watcher:
            watcher.autocommit = True
            running = pool.submit(job.execute_in_process, instance=instance)
            wait_for(lambda: waits_for_a_lock(watcher, "ShareLock"), "the run to wait for the first asset's row")
        cursor.execute(lock, (KEYS[1].to_string(),))
        other.commit()
        assert running.result(timeout=60).success


def waits_for_a_lock(connection: Any, mode: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_locks where not granted and mode = %s", (mode,))
        return bool(cursor.fetchone()[0])


def test_what_stands_is_found_by_one_index_without_statistics(
    instance: dg.DagsterInstance, database_urls: "DatabaseUrls"
) -> None:
    with closing(psycopg2.connect(database_urls.owner)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("alter table dagster.event_logs set (autovacuum_enabled = off)")
        cursor.execute(
            "insert into dagster.event_logs (run_id, event, timestamp, dagster_event_type, asset_key, partition)"
            " select 'r', '{}', now(), 'ASSET_MATERIALIZATION', '[\"first\"]', n::text"
            " from generate_series(1, 3000) as n"
        )
    wanted = {"assets": '["first"]', "partitions": "7"}
    with instance.event_log_storage.index_connection() as connection:
        plan = "\n".join(row[0] for row in connection.execute(text(f"explain {STANDING.text}"), wanted))
        assert [row.position for row in connection.execute(STANDING, wanted)] == [1]
    assert plan.count("using idx_events_by_asset_partition") == 1
    assert plan.count(" on event_logs") == 1
