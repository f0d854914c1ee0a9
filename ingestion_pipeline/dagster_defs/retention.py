"""Keeps Dagster small: documents that were settled long ago lose their partition, old runs go with their events.

Postgres stays the record of both: a run of a document tells Dagster everything that is durable, so nothing is lost.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from ingestion_pipeline.dagster_defs.assets import CHECKS, DOCUMENTS
from ingestion_pipeline.dagster_defs.jobs import process_job
from ingestion_pipeline.dagster_defs.sensors import run_request
from ingestion_pipeline.errors import DatabaseUnavailableError
from ingestion_pipeline.pipeline.services import Services

# What one tick does at most, some seconds of work.
PARTITIONS_A_TICK = 200
RUNS_A_TICK = 10


@dg.sensor(job=process_job, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def retention_sensor(
    context: dg.SensorEvaluationContext, services: dg.ResourceParam[Services]
) -> dg.SensorResult | dg.SkipReason:
    """Takes away the partitions of documents settled long ago, and old runs; brings back what an operator asked for."""
    try:
        awaited = services.partitions.awaited(limit=services.limits.batch_documents)
        if awaited:
            return _restore(context.instance, awaited, services)
        age = timedelta(days=services.limits.partition_retention_days)
        if not age:
            return dg.SkipReason("INGEST_PARTITION_RETENTION_DAYS is 0: everything is kept")
        retired = services.partitions.retire(
            settled_seconds=age.total_seconds(), limit=PARTITIONS_A_TICK, forget=partial(_forget, context.instance)
        )
    except DatabaseUnavailableError as error:
        return dg.SkipReason(error.message)
    runs = 0
    if len(retired) < PARTITIONS_A_TICK:  # else partitions would stay for a while of which nothing is known
        runs = delete_runs(context.instance, datetime.now(UTC) - age, RUNS_A_TICK)
    return dg.SkipReason(f"partitions retired {len(retired)}, old runs deleted {runs}")


def _restore(instance: dg.DagsterInstance, document_ids: Sequence[UUID], services: Services) -> dg.SensorResult:
    """Add the partitions, and ask for a run that tells Dagster of the documents."""
    instance.add_dynamic_partitions(str(DOCUMENTS.name), [str(document_id) for document_id in document_ids])
    batch_id = uuid4()
    held = services.documents.claim_documents(document_ids, str(batch_id))
    services.partitions.restored(document_ids)
    return dg.SensorResult(run_requests=[run_request(batch_id, held)] if held else [])


def _forget(instance: dg.DagsterInstance, document_ids: Sequence[UUID]) -> None:
    for document_id in document_ids:
        instance.delete_dynamic_partition(str(DOCUMENTS.name), str(document_id))


def delete_runs(instance: dg.DagsterInstance, ended_before: datetime, limit: int) -> int:
    """Delete the oldest runs that ended before a time, at most `limit`, with their events, checks and logs.

    Returns how many there were.
    """
    wanted = dg.RunsFilter(statuses=list(FINISHED_STATUSES), updated_before=ended_before)
    records = instance.get_run_records(wanted, limit=limit, order_by="id", ascending=True)
    for record in records:
        run_id = record.dagster_run.run_id
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        _delete_checks(instance, run_id)
        instance.delete_run(run_id)
    return len(records)


def _delete_checks(instance: dg.DagsterInstance, run_id: str) -> None:
    """What checks found is in a table of its own, which deleting a run leaves alone."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    columns = AssetCheckExecutionsTable.c
    with storage.index_connection() as connection:
        for asset, checks in CHECKS.items():
            connection.execute(
                AssetCheckExecutionsTable.delete().where(
                    columns.asset_key == dg.AssetKey(asset.value).to_string(),
                    columns.check_name.in_(checks),
                    columns.run_id == run_id,
                )
            )
