"""Dagster's code server, whose runs start warm: forked from a process that has imported everything already.

Dagster starts each run in a fresh interpreter, which spends seconds on imports. Only the way in which the run's process
comes to be is replaced; termination, health checks and crash detection stay Dagster's own.
"""

import multiprocessing
import os
from contextlib import nullcontext
from multiprocessing import forkserver
from typing import Any

import dagster as dg
from dagster._cli import utils
from dagster._cli.api import grpc_command
from dagster._grpc import server

from ingestion_pipeline.dagster_defs.interruption import ignoring_sigterm, stop_runs_with_this_process
from ingestion_pipeline.dagster_defs.resources import check_database

DEFINITIONS = "ingestion_pipeline.definitions"
# What a run imports sooner or later, the last of which does the rest. Nothing may start a thread: the process forks.
PRELOADED = [
    DEFINITIONS,
    "dagster._core.definitions.external_asset",
    "dagster._core.definitions.repository_definition.repository_data_builder",
    "dagster._core.execution.plan.active",
    "dagster._core.executor.in_process",
    "dagster._core.instance.factory",
    "dagster._core.secrets.env_file",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.storage.root",
    "dagster._core.system_config.composite_descent",
    "dagster._core.utility_ops",
    "dagster._core.workspace.autodiscovery",
    "dagster._grpc.impl",
    "dagster_postgres",
    "ingestion_pipeline.dagster_defs.pooled_storage",
    "ingestion_pipeline.dagster_defs.run_output",
    "upath.implementations.local",
    "ingestion_pipeline.dagster_defs.warm_process",
]


class WarmApiServer(server.DagsterApiServer):
    """Dagster's servicer, with run processes from the fork server."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mp_ctx = multiprocessing.get_context("forkserver")  # type: ignore[assignment]  # instead of "spawn"


def end_runs_of_the_dead(instance: dg.DagsterInstance) -> list[str]:
    """Mark as ended what an earlier code server had under way, and return the runs' ids.

    Run processes end with their code server. If it was killed nobody says so: Dagster's default launcher does not look,
    and such runs would fill the queue for ever. Their documents go back by themselves.
    """
    ended = []
    under_way = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(statuses=under_way)):
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "the code server that had this run is gone")
        else:
            instance.report_run_failed(run, "the code server that had this run is gone")
        ended.append(run.run_id)
    return ended


def keep_environment() -> None:
    """Keep Dagster from putting .env over the environment: there the environment counts, and what is empty is not set.

    The settings read .env themselves.
    """
    utils._inject_local_env_file = lambda _logger: nullcontext()  # type: ignore[assignment,return-value]


def serve_code(host: str, port: int) -> None:
    """Serve the definitions over gRPC until a signal ends it; runs that are at work then end before it."""
    check_database()
    keep_environment()
    with dg.DagsterInstance.get() as instance:
        end_runs_of_the_dead(instance)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would be in the process that forks
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    with ignoring_sigterm():  # it ends with this process, which waits for its runs
        forkserver.ensure_running()
    stop_runs_with_this_process()
    server.DagsterApiServer = WarmApiServer  # type: ignore[misc]  # the command below looks it up there
    grpc_command.main(["--module-name", DEFINITIONS, "--host", host, "--port", str(port)], standalone_mode=False)
