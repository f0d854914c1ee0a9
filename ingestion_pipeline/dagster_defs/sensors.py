"""The sensors: new uploads, ended parse jobs, and what fell between."""

import os
from collections.abc import Sequence
from uuid import UUID, uuid4

import dagster as dg
import structlog

from ingestion_pipeline.dagster_defs.assets import DOCUMENTS, ingest_step
from ingestion_pipeline.dagster_defs.interruption import is_ending
from ingestion_pipeline.dagster_defs.jobs import process_job, submit_job
from ingestion_pipeline.domain import Lane, VendorHealth
from ingestion_pipeline.errors import DatabaseUnavailableError
from ingestion_pipeline.pipeline.reconcile import reconcile
from ingestion_pipeline.pipeline.services import Services

MAX_ACTIVE_BATCHES = 4
# Of them those that share a flood: submitting waits for the parser, but what comes after it keeps a core busy a run.
FLOOD_RUNS = {Lane.SUBMIT: MAX_ACTIVE_BATCHES, Lane.PROCESS: min(MAX_ACTIVE_BATCHES, max(2, os.cpu_count() or 1))}
LEAST_SHARE = 250  # documents: for fewer the start of one more run costs more than it brings
DOCUMENT_BYTES = 16_000  # what a document costs whatever its size, as so many bytes of text

log = structlog.get_logger(__name__)


@dg.sensor(job=submit_job, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def upload_sensor(
    context: dg.SensorEvaluationContext, services: dg.ResourceParam[Services]
) -> dg.SensorResult | dg.SkipReason:
    """Claims uploaded documents and asks for a run that submits them to the parser."""
    return _claim_batches(context, services, Lane.SUBMIT)


@dg.sensor(job=process_job, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def completion_sensor(
    context: dg.SensorEvaluationContext, services: dg.ResourceParam[Services]
) -> dg.SensorResult | dg.SkipReason:
    """Claims documents behind the parser that are due, and asks for a run that takes them to the end."""
    return _claim_batches(context, services, Lane.PROCESS)


@dg.sensor(job=process_job, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def reconcile_sensor(
    context: dg.SensorEvaluationContext,
    services: dg.ResourceParam[Services],
) -> dg.SensorResult | dg.SkipReason:
    """Asks for overdue parse jobs, returns what dead runs held, has Dagster told of what they had finished.

    The partition of a cancelled document goes; it comes back when the document is claimed again.
    """
    try:
        result = reconcile(services)
        for document_id in result.cancelled:
            context.instance.delete_dynamic_partition(str(DOCUMENTS.name), str(document_id))
        if result.untold:
            batch_id = uuid4()
            held = services.documents.claim_documents(result.untold, str(batch_id))
            return dg.SensorResult(run_requests=[run_request(batch_id, held)])
    except DatabaseUnavailableError as error:
        return dg.SkipReason(error.message)
    return dg.SkipReason(
        f"parse jobs ended {result.parse_jobs_ended}, running {result.parse_jobs_running}, "
        f"lost {result.parse_jobs_lost}, not answered {result.parse_polls_failed}; "
        f"claims returned {result.claims_returned}; cancelled {len(result.cancelled)}"
        + "".join(map(_illness, result.ill))
    )


def _illness(health: VendorHealth) -> str:
    until = f" until {health.reopens_at:%H:%M:%S %Z}" if health.state == "open" else ", being tested"
    return f"; {health.vendor.value} is paused{until}, ill since {health.since:%H:%M:%S %Z}: {health.last_error_code}"


def _claim_batches(
    context: dg.SensorEvaluationContext, services: Services, lane: Lane
) -> dg.SensorResult | dg.SkipReason:
    """Claim what is due; if nothing is, wait a little for it: Dagster's own loop comes round every five seconds."""
    requests: list[dg.RunRequest] = []
    try:
        with services.documents.announced_work(lane) as wait:
            _claim(context, services, lane, requests)
            if not requests and wait(services.limits.sensor_wait_seconds):
                _claim(context, services, lane, requests)
    except DatabaseUnavailableError as error:
        if not requests:
            return dg.SkipReason(error.message)
    return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason("nothing is due")


def _claim(context: dg.SensorEvaluationContext, services: Services, lane: Lane, requests: list[dg.RunRequest]) -> None:
    """What is due goes in shares of equal work to as many runs as may be at work: the last to end decides.

    A few documents find a run of their own while a flood is at work.
    """
    at_work = services.documents.active_batches(lane)
    if at_work >= MAX_ACTIVE_BATCHES:
        return
    limits = services.limits
    due, size = services.documents.due_documents(lane, FLOOD_RUNS[lane] * limits.batch_documents)
    work = size + due * DOCUMENT_BYTES
    least, most = min(LEAST_SHARE, limits.batch_documents), limits.batch_bytes
    needed = max(-(-due // least), -(-work // most))
    runs = needed if needed <= 1 else min(needed, FLOOD_RUNS[lane] - at_work)
    for _ in range(runs):
        if is_ending():
            break
        batch = services.documents.claim_batch(
            lane,
            max_documents=limits.batch_documents,
            max_bytes=min(most, -(-work // runs)),
            document_bytes=DOCUMENT_BYTES,
        )
        if batch is None:
            break
        correlation_ids = [str(correlation_id) for correlation_id in batch.correlation_ids]
        log.info("claimed", lane=lane.value, batch_id=str(batch.batch_id), correlation_ids=correlation_ids)
        context.instance.add_dynamic_partitions(str(DOCUMENTS.name), [str(key) for key in batch.document_ids])
        requests.append(run_request(batch.batch_id, batch.document_ids))


def run_request(batch_id: UUID, document_ids: Sequence[UUID]) -> dg.RunRequest:
    """A run over documents that are claimed for a batch."""
    return dg.RunRequest(
        run_key=str(batch_id),
        run_config={"ops": {ingest_step.op.name: {"config": {"batch_id": str(batch_id)}}}},
        tags={"ingest/batch": str(batch_id), "ingest/documents": str(len(document_ids))},
    )
