"""What runs in worker processes of the measurements: the pipeline alone, or the same in Dagster runs, or the limit.

A process first prepares (imports, connections, tables of the tokeniser), then works when it is told to, so that the two
can be measured apart. The pipeline is driven through what a run of the product uses.
"""

import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingestion_pipeline.settings import PROJECT_ROOT, Settings

CLAIM_SECONDS = 600.0


@dataclass(slots=True)
class Work:
    """What a worker did, in seconds of wall clock and of its own CPU, and its peak of memory in bytes."""

    documents: int
    runs: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def prepare(settings: Settings, dagster_environment: Mapping[str, str] | None) -> float:
    """Make this process ready; returns its CPU seconds so far. With an environment of Dagster, for runs in Dagster."""
    global _driver  # noqa: PLW0603  one worker a process
    from ingestion_pipeline.dagster_defs.resources import build_services

    services = build_services(settings)
    services.embedder.embed(["warm"])
    if dagster_environment is None:
        _driver = _Pipeline(services)
    else:
        os.environ.update(dagster_environment)
        _driver = _Dagster(services)
    return _cpu_seconds()


def work() -> Work:
    """Take what is due, batch by batch, until nothing is."""
    cpu, started = _cpu_seconds(), time.perf_counter()
    documents = runs = 0
    while batches := _driver.batches():
        for batch in batches:
            documents += _driver.run(batch)
            runs += 1
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Work(documents, runs, seconds, _cpu_seconds() - cpu, peak)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class _Pipeline:
    """The pipeline's own function, without Dagster."""

    def __init__(self, services: Any) -> None:
        from ingestion_pipeline.domain import Lane
        from ingestion_pipeline.pipeline.advance import advance_documents

        self._services, self._lane, self._advance = services, Lane.PROCESS, advance_documents

    def batches(self) -> list[Any]:
        limits = self._services.limits
        batch = self._services.documents.claim_batch(
            self._lane, max_documents=limits.batch_documents, max_bytes=limits.batch_bytes
        )
        return [batch] if batch else []

    def run(self, batch: Any) -> int:
        documents = self._services.documents.load(batch.document_ids)
        for _ in self._advance(documents, batch.claim, self._services):
            pass
        self._services.documents.release_claim(batch.claim)
        return len(documents)


class _Dagster:
    """A tick of the sensor and the runs that it asks for, on Dagster's instance in Postgres, in this process."""

    def __init__(self, services: Any) -> None:
        import dagster as dg

        from ingestion_pipeline.definitions import build_definitions

        self._dg, self._services = dg, services
        self._definitions = build_definitions({"services": services})
        self._instance = dg.DagsterInstance.from_config(str(PROJECT_ROOT))
        self._sensor = self._definitions.resolve_sensor_def("completion_sensor")
        self._job = self._definitions.resolve_job_def("process")

    def batches(self) -> list[Any]:
        with self._dg.build_sensor_context(
            instance=self._instance, definitions=self._definitions, resources={"services": self._services}
        ) as context:
            return list(self._sensor.evaluate_tick(context).run_requests or [])

    def run(self, request: Any) -> int:
        self._job.execute_in_process(instance=self._instance, run_config=request.run_config, tags=request.tags)
        return int(request.tags["ingest/documents"])


_driver: _Pipeline | _Dagster
