"""Dagster events of one document's partition, made from stage reports.

A batch run says of each partition itself what became of it, because Dagster's own results know one partition a run. A
failed partition is one whose latest event is "planned" in a run that failed, so that is what a failed document gets;
the run then ends with a Failure. Source: dagster._core.storage.partition_status_cache.
"""

from collections.abc import Iterator

import dagster as dg

from ingestion_pipeline.dagster_defs.bulk_events import PartitionEvent, PlannedPartition
from ingestion_pipeline.pipeline.report import StageReport, Verdict
from ingestion_pipeline.remedies import remedy_for


def partition_events(report: StageReport) -> Iterator[PartitionEvent]:
    """The events of one report."""
    asset_key = dg.AssetKey(report.asset.value)
    partition = str(report.document_id)
    if report.verdict is Verdict.DONE:
        metadata: dict[str, dg.MetadataValue | int | float | str] = dict(report.metadata)
        if report.preview:
            metadata["preview"] = dg.MetadataValue.md(report.preview)
        yield dg.AssetMaterialization(asset_key, partition=partition, metadata=metadata)
    elif report.failure:
        facts = {"code": report.failure.code, "message": report.failure.message, **report.metadata}
        if report.verdict is Verdict.FAILED:
            facts["remedy"] = remedy_for(report.failure.code)
        yield dg.AssetObservation(asset_key, partition=partition, description=report.failure.message, metadata=facts)
    for check in report.checks:
        yield dg.AssetCheckEvaluation(
            asset_key=asset_key,
            check_name=check.name,
            passed=check.passed,
            description=check.message,
            metadata=dict(check.facts),
            partition=partition,
            blocking=False,  # the pipeline itself has stopped this document; the others of the batch go on
        )
    if report.verdict is Verdict.FAILED:
        yield PlannedPartition(asset_key, partition)
