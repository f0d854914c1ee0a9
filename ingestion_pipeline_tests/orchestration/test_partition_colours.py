"""What Dagster keeps of each partition's colour is right in the end, whenever somebody looks."""

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import dagster as dg
import psycopg2
import pytest
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.event_log.base import AssetRecord
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from ingestion_pipeline.dagster_defs.bulk_events import EventWriter, Kind, PartitionEvent

if TYPE_CHECKING:
    from conftest import DatabaseUrls

DOCUMENTS = dg.DynamicPartitionsDefinition(name="documents")
KEY = dg.AssetKey("parsed")


def tell(instance: dg.DagsterInstance, **kinds: Kind) -> None:
    """A run that tells of partitions; it fails if it plans one."""

    @dg.multi_asset(name="step", specs=[dg.AssetSpec(KEY, skippable=True, partitions_def=DOCUMENTS)])
    def step(context: dg.AssetExecutionContext) -> Any:
        yield from ()
        with EventWriter(context) as writer:
            writer.write([PartitionEvent(kind, "parsed", name) for name, kind in kinds.items()])
        if Kind.PLANNED in kinds.values():
            raise dg.Failure

    job = dg.define_asset_job("job", selection=dg.AssetSelection.assets(step), executor_def=dg.in_process_executor)
    resolved = dg.Definitions(assets=[step], jobs=[job]).resolve_job_def("job")
    resolved.execute_in_process(instance=instance, raise_on_error=False)


def look(instance: dg.DagsterInstance, context: LoadingContextForTest | None = None) -> dict[str, set[str]]:
    """What the UI shows; with a `context`, to whom has read the asset's row by it."""
    kept = get_and_update_asset_status_cache_value(instance, KEY, DOCUMENTS, loading_context=context)
    assert kept is not None
    return {
        "green": set(kept.deserialize_materialized_partition_subsets(DOCUMENTS).get_partition_keys()),
        "red": set(kept.deserialize_failed_partition_subsets(DOCUMENTS).get_partition_keys()),
    }


@pytest.fixture
def mended(instance: dg.DagsterInstance) -> Callable[[], None]:
    """Two red partitions, and the run that mends one of them."""
    instance.add_dynamic_partitions("documents", ["good", "mended", "broken"])
    tell(instance, good=Kind.MATERIALIZED, mended=Kind.PLANNED, broken=Kind.PLANNED)
    assert look(instance) == {"green": {"good"}, "red": {"mended", "broken"}}
    return lambda: tell(instance, mended=Kind.MATERIALIZED, broken=Kind.PLANNED)


IN_THE_END = {"green": {"good", "mended"}, "red": {"broken"}}


def test_who_has_read_the_row_of_an_asset_before_a_run_told_of_it_loses_nothing(
    instance: dg.DagsterInstance, mended: Callable[[], None]
) -> None:
    context = LoadingContextForTest(instance)
    assert AssetRecord.blocking_get(context, KEY) is not None
    mended()
    look(instance, context)
    assert look(instance) == IN_THE_END


def test_who_looks_before_the_row_of_an_asset_is_written_loses_nothing(
    instance: dg.DagsterInstance, mended: Callable[[], None], database_urls: "DatabaseUrls"
) -> None:
    with closing(psycopg2.connect(database_urls.owner)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("select last_materialization from dagster.asset_keys")
        [(before,)] = cursor.fetchall()
        mended()
        cursor.execute("select last_materialization from dagster.asset_keys")
        [(after,)] = cursor.fetchall()
        assert after != before
        for written in (before, after):
            cursor.execute("update dagster.asset_keys set last_materialization = %s", (written,))
            connection.commit()
            look(instance)
    assert look(instance) == IN_THE_END


def test_a_wiped_asset_stays_wiped(instance: dg.DagsterInstance, mended: Callable[[], None]) -> None:
    mended()
    instance.wipe_assets([KEY])
    tell(instance, broken=Kind.PLANNED)
    assert look(instance) == {"green": set(), "red": {"broken"}}
    [record] = instance.get_asset_records([KEY])
    assert record.asset_entry.last_materialization_record is None
