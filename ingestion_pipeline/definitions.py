"""What Dagster loads: `defs`, made by a function so that tests can make their own."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from ingestion_pipeline.dagster_defs.assets import ingest_step
from ingestion_pipeline.dagster_defs.jobs import EXECUTOR, process_job, submit_job
from ingestion_pipeline.dagster_defs.resources import services_resource
from ingestion_pipeline.dagster_defs.retention import retention_sensor
from ingestion_pipeline.dagster_defs.sensors import completion_sensor, reconcile_sensor, upload_sensor


def build_definitions(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Fresh definitions; `resource_overrides` replaces `services`."""
    return dg.Definitions(
        assets=[ingest_step],
        jobs=[submit_job, process_job],
        sensors=[upload_sensor, completion_sensor, reconcile_sensor, retention_sensor],
        resources={"services": services_resource, **(resource_overrides or {})},
        executor=EXECUTOR,
    )


defs = build_definitions()
