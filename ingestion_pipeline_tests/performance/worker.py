"""What runs in worker processes of the measurements: the pipeline alone, or the same in Dagster runs.

A process first prepares (imports, connections), then works when it is told to, so that the two can be measured apart.
The pipeline is driven through what a run of the product uses.
"""

import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ingestion_pipeline.domain import Lane
from ingestion_pipeline.settings import PROJECT_ROOT, Settings
from ingestion_pipeline_tests.performance.processes import peak_bytes

CLAIM_SECONDS = 600.0
SENSORS = {Lane.SUBMIT: "upload_sensor", Lane.PROCESS: "completion_sensor"}


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker took, in seconds of wall clock, and its peak of memory in bytes."""

    seconds: float
    peak_bytes: int


def prepare(
    settings: Settings, dagster_environment: Mapping[str, str] | None, lane: Lane = Lane.PROCESS, runs: int = 1
) -> None:
    """Make this process ready. With Dagster's environment it works by Dagster runs, without by the pipeline alone.

    A flood is shared by so many `runs`, whatever this machine would give it.
    """
    global _driver  # noqa: PLW0603  one worker a process
    from ingestion_pipeline.dagster_defs.resources import build_services
    from ingestion_pipeline.dagster_defs.warm_code_server import PRELOADED
    from ingestion_pipeline.logs import configure_logging

    configure_logging()
    services = build_services(settings)
    services.embedder.embed(["warm"])
    if dagster_environment is None:
        _driver = _Pipeline(services, lane)
    else:
        os.environ.update(dagster_environment)
        _driver = _Dagster(services, lane, runs)
    for module in PRELOADED:  # as runs of the product begin
        import_module(module)


def look() -> None:
    """Look once for what is due in the other lane, which is empty: the process of the sensors has done so before."""
    _driver.look()


def work() -> Work:
    """Take what is due, batch by batch, until nothing is."""
    started = time.perf_counter()
    while batches := claim():
        run(batches)
    return Work(time.perf_counter() - started, peak_bytes())


def claim() -> list[Any]:
    """Batches of what is due, as `run` takes them, also in another process."""
    return _driver.batches()


def run(batches: Sequence[Any]) -> int:
    """Take batches to their end; returns how many documents they had."""
    return sum(_driver.run(batch) for batch in batches)


def cpu_seconds() -> float:
    """CPU that this process has used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class _Pipeline:
    """The pipeline's own function, without Dagster."""

    def __init__(self, services: Any, lane: Lane) -> None:
        from ingestion_pipeline.pipeline.advance import advance_documents

        self._services, self._lane, self._advance = services, lane, advance_documents

    def look(self) -> None:
        self._services.documents.active_batches(self._lane)

    def batches(self) -> list[Any]:
        limits = self._services.limits
        batch = self._services.documents.claim_batch(
            self._lane, max_documents=limits.batch_documents, max_bytes=limits.batch_bytes
        )
        return [batch] if batch else []

    def run(self, batch: Any) -> int:
        documents = self._services.documents.load(self._services.documents.renew_claim(batch.claim))
        for _ in self._advance(documents, batch.claim, self._services):
            pass
        self._services.documents.release_claim(batch.claim)
        return len(documents)


class _Dagster:
    """A tick of the sensor and the runs that it asks for, on Dagster's instance in Postgres, in this process."""

    def __init__(self, services: Any, lane: Lane, runs: int) -> None:
        import dagster as dg

        from ingestion_pipeline.dagster_defs.sensors import FLOOD_RUNS
        from ingestion_pipeline.definitions import build_definitions

        FLOOD_RUNS[lane] = runs
        self._dg, self._services = dg, services
        self._definitions = build_definitions({"services": services})
        self._instance = dg.DagsterInstance.from_config(str(PROJECT_ROOT))
        self._lane = lane
        self._job = self._definitions.resolve_job_def(lane.value)

    def look(self) -> None:
        [other] = set(SENSORS) - {self._lane}
        assert not self._tick(other)

    def batches(self) -> list[Any]:
        return self._tick(self._lane)

    def _tick(self, lane: Lane) -> list[Any]:
        with self._dg.build_sensor_context(
            instance=self._instance, definitions=self._definitions, resources={"services": self._services}
        ) as context:
            requests = self._definitions.resolve_sensor_def(SENSORS[lane]).evaluate_tick(context).run_requests or []
        return [{"run_config": dict(request.run_config), "tags": dict(request.tags)} for request in requests]

    def run(self, request: Any) -> int:
        self._job.execute_in_process(instance=self._instance, **request)
        return int(request["tags"]["ingest/documents"])


_driver: _Pipeline | _Dagster
