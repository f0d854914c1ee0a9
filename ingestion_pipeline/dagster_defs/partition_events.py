"""Dagster events of one document's partition, made from stage reports.

A batch run says of each partition itself what became of it, because Dagster's own results know one partition a run. A
failed partition is one whose latest event is "planned" in a run that failed, so that is what a failed document gets;
the run then ends with a Failure. Source: dagster._core.storage.partition_status_cache.
"""

from collections.abc import Iterator

from ingestion_pipeline.dagster_defs.bulk_events import Kind, Markdown, PartitionEvent
from ingestion_pipeline.pipeline.report import StageReport, Verdict
from ingestion_pipeline.remedies import remedy_for


def partition_events(report: StageReport) -> Iterator[PartitionEvent]:
    """The events of one report."""
    asset, partition = report.asset.value, str(report.document_id)
    if report.verdict is Verdict.DONE:
        metadata = dict(report.metadata)
        if report.preview:
            metadata["preview"] = Markdown(report.preview)
        yield PartitionEvent(Kind.MATERIALIZED, asset, partition, metadata=metadata)
    elif report.failure:
        facts = {"code": report.failure.code, "message": report.failure.message, **report.metadata}
        if report.verdict is Verdict.FAILED:
            facts["remedy"] = remedy_for(report.failure.code)
        yield PartitionEvent(Kind.OBSERVED, asset, partition, report.failure.message, facts)
    for check in report.checks:
        yield PartitionEvent(
            Kind.CHECKED, asset, partition, check.message, check.facts, check=check.name, passed=check.passed
        )
    if report.verdict is Verdict.FAILED:
        yield PartitionEvent(Kind.PLANNED, asset, partition)
