"""dagster.yaml and workspace.yaml as Dagster itself loads them, and a batch on the instance that they describe."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import dagster as dg
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.workspace.load import location_origins_from_yaml_paths
from dagster_postgres import PostgresEventLogStorage

from ingestion_pipeline.dagster_defs.retention import delete_runs
from ingestion_pipeline.pipeline.report import Asset
from ingestion_pipeline.settings import PROJECT_ROOT
from orchestration.pipeline_under_test import PipelineUnderTest, document_text

if TYPE_CHECKING:
    from conftest import DatabaseUrls


def test_dagster_yaml_puts_events_into_postgres_and_leaves_retries_to_the_pipeline(
    instance: dg.DagsterInstance, dagster_settings: dict[str, str], tmp_path: Path
) -> None:
    assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
    assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
    assert not instance.run_retries_enabled
    assert instance.run_monitoring_enabled
    assert not instance.telemetry_enabled
    assert str(tmp_path) in instance.storage_directory()


def test_workspace_yaml_names_the_code_server_of_the_environment(dagster_settings: dict[str, str]) -> None:
    [origin] = location_origins_from_yaml_paths([str(PROJECT_ROOT / "workspace.yaml")])
    assert origin.location_name == "ingestion_pipeline"
    assert (origin.host, origin.port) == ("127.0.0.1", 4000)  # type: ignore[attr-defined]


def test_a_batch_is_told_on_postgres_as_it_is_in_memory(
    pipeline: PipelineUnderTest, instance: dg.DagsterInstance, database_urls: "DatabaseUrls"
) -> None:
    on_postgres = replace(pipeline, instance=instance)
    on_postgres.mocks.script("openai", "status", match="refused", times=1, status=400)
    refused = on_postgres.upload(document_text("refused"))
    on_postgres.complete()
    assert on_postgres.colours(refused) == {
        **dict.fromkeys([asset.value for asset in Asset], "green"),
        "embeddings": "red",
        "finalized": "",
    }
    assert on_postgres.materialise(refused).success
    assert set(on_postgres.colours(refused).values()) == {"green"}
    assert on_postgres.verdicts(Asset.EMBEDDINGS, "vectors_are_complete") == {refused: True}
    tables = on_postgres.rows("select 1 from information_schema.tables where table_schema = 'dagster'")
    assert tables, "Dagster's tables are in a schema of their own"


def test_old_runs_leave_nothing_behind_on_postgres(
    pipeline: PipelineUnderTest, instance: dg.DagsterInstance, database_urls: "DatabaseUrls"
) -> None:
    on_postgres = replace(pipeline, instance=instance)
    on_postgres.upload(document_text("old"))
    on_postgres.complete()
    tables = ("runs", "event_logs", "asset_check_executions", "asset_event_tags")

    def counts() -> dict[str, int]:
        return {name: on_postgres.rows(f"select count(*) as rows from dagster.{name}")[0]["rows"] for name in tables}

    assert counts()["asset_check_executions"] > 5
    assert delete_runs(instance, datetime.now(UTC) + timedelta(days=1), 10) == 2
    assert counts() == dict.fromkeys(tables, 0)


def test_what_an_earlier_run_told_is_told_again_only_after_a_plan(
    pipeline: PipelineUnderTest, instance: dg.DagsterInstance
) -> None:
    pipeline = replace(pipeline, instance=instance)
    document_id = pipeline.upload(document_text("one"))
    pipeline.complete()
    assert told_of(pipeline, Asset.RAW_UPLOAD, document_id) == (0, 1)
    assert pipeline.materialised(Asset.RAW_UPLOAD, document_id)["parse_job"]  # which later runs don't know
    pipeline.run_unguarded("update upload_pipeline.upload_jobs set claimed_by = 'audit', claim_expires_at = now()", {})
    pipeline.tick_and_run("reconcile_sensor", "process")  # a settled document is there to be told of
    assert told_of(pipeline, Asset.RAW_UPLOAD, document_id) == (0, 2)
    pipeline.materialise(document_id)
    assert told_of(pipeline, Asset.RAW_UPLOAD, document_id) == (1, 3)
    assert set(pipeline.colours(document_id).values()) == {"green"}


def told_of(pipeline: PipelineUnderTest, asset: Asset, document_id: UUID) -> tuple[int, int]:
    """How many plans and how many materialisations Dagster has of a partition."""
    key, partitions = dg.AssetKey(asset.value), [str(document_id)]
    planned, materialised = (
        pipeline.instance.get_event_records(dg.EventRecordsFilter(kind, key, asset_partitions=partitions))
        for kind in (dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, dg.DagsterEventType.ASSET_MATERIALIZATION)
    )
    return len(planned), len(materialised)
