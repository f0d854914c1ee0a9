"""What makes Dagster prompt: pooled connections, runs forked from a warm process, a daemon that looks often."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dagster as dg
import psutil
import pytest
from dagster._cli import utils
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.test_utils import create_run_for_test
from dagster._daemon import backfill, controller, sensor
from sqlalchemy import text

from ingestion_pipeline.dagster_defs import prompt_daemon, warm_code_server
from ingestion_pipeline.domain import State
from ingestion_pipeline.local_stack.ports import usable_port
from ingestion_pipeline.local_stack.stack import dagster_environment
from ingestion_pipeline.settings import PROJECT_ROOT
from orchestration.pipeline_under_test import NOBODY_LISTENS, PipelineUnderTest, document_text, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import DatabaseUrls


def backend(storage: Any) -> int:
    """The server process that answers a storage."""
    with storage.connect() as connection:
        return int(connection.execute(text("select pg_backend_pid()")).scalar_one())


def test_dagsters_storages_share_connections_and_outlive_their_end(instance: dg.DagsterInstance) -> None:
    first = backend(instance.run_storage)
    assert backend(instance.run_storage) == first
    with dg.DagsterInstance.from_config(str(PROJECT_ROOT)) as another:
        assert backend(another.run_storage) == first, "a sensor's tick makes an instance of its own"
    with instance.run_storage.connect() as killed:  # type: ignore[attr-defined]
        process = killed.execute(text("select pg_backend_pid()")).scalar_one()
        with instance.run_storage.connect() as killer:  # type: ignore[attr-defined]
            killer.execute(text("select pg_terminate_backend(:process)"), {"process": process})
    assert instance.get_runs_count() == 0


def fork_server_of(process: psutil.Process) -> psutil.Process | None:
    for child in process.children():
        with suppress(psutil.Error):  # other children come and go
            if "forkserver" in " ".join(child.cmdline()):
                return child
    return None


WARM = "\n".join(f"import {name}" for name in warm_code_server.PRELOADED)
# What a run does from its beginning to its end, and what it imports for it, beside what executes it here.
A_RUN = """
import json, sys
import dagster._core.execution.execute_in_process, dagster._core.instance.runs.run_domain
imported = set(sys.modules)
import dagster as dg
from ingestion_pipeline.dagster_defs.resources import services_of_process
from ingestion_pipeline.definitions import defs
from ingestion_pipeline.domain import Lane
from ingestion_pipeline.settings import PROJECT_ROOT
batch = services_of_process().documents.claim_batch(Lane.PROCESS, max_documents=1, max_bytes=1 << 30)
config = {"ops": {"ingest_documents": {"config": {"batch_id": str(batch.batch_id)}}}}
with dg.DagsterInstance.from_config(str(PROJECT_ROOT)) as instance:
    defs.resolve_job_def("process").execute_in_process(instance=instance, run_config=config)
print(json.dumps(sorted(set(sys.modules) - imported)))
"""


def output_of(program: str, **environment: str) -> Any:
    """What a fresh interpreter prints last, as JSON."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment}
    output = subprocess.check_output([sys.executable, "-c", program], cwd=PROJECT_ROOT, env=environment)
    return json.loads(output.splitlines()[-1])


def test_the_process_that_runs_are_forked_from_has_the_tokens_at_hand_and_frozen_what_it_imported() -> None:
    program = "\n".join(
        (
            WARM,
            "import gc, json, os",
            "from ingestion_pipeline.adapters.vendor_connections import tls_context",
            "from ingestion_pipeline.adapters.postgres.queries import queries",
            "from ingestion_pipeline.stages.tokens import tokenizer",
            "threads = len(os.listdir('/proc/self/task'))",
            "made = (queries, tokenizer, tls_context)",
            "loaded = [each.cache_info().currsize for each in made]",
            "print(json.dumps([loaded, gc.get_freeze_count(), len(gc.get_objects()), threads]))",
        )
    )
    loaded, frozen, collected, threads = output_of(program)
    assert (loaded, threads) == ([1, 1, 1], 1)
    assert frozen > 100 * collected


def test_a_run_imports_nothing_that_the_process_it_is_forked_from_has_not(
    pipeline: PipelineUnderTest,
    database_urls: "DatabaseUrls",
    dagster_settings: dict[str, str],
    instance: dg.DagsterInstance,  # which has made Dagster's tables
    tmp_path: "Path",
) -> None:
    document_id = pipeline.upload(document_text("Pump"))
    pipeline.submit()
    pipeline.finish_parsing()
    imported = output_of(
        WARM + A_RUN,
        **dagster_settings,
        INGEST_WORKER_DATABASE_URL=database_urls.worker,
        INGEST_OBJECT_STORE_DIR=str(tmp_path / "objects"),
        INGEST_LLAMA_CLOUD_API_KEY="llx-test",
        INGEST_LLAMA_CLOUD_BASE_URL=pipeline.mocks.llamacloud_url,
        INGEST_WEBHOOK_URL=NOBODY_LISTENS,
        INGEST_WEBHOOK_SECRET="secret-of-the-webhooks",
        INGEST_OPENAI_API_KEY="sk-test",
        INGEST_OPENAI_BASE_URL=pipeline.mocks.openai_base_url,
    )
    assert pipeline.document(document_id).state is State.COMPLETE
    assert [name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names] == []


def test_runs_come_from_a_process_that_is_warm_before_the_first_of_them(
    database_urls: "DatabaseUrls", tmp_path: "Path"
) -> None:
    port = usable_port("127.0.0.1")
    command = [sys.executable, "-m", "ingestion_pipeline.cli", "serve", "code", "--port", str(port)]
    environment = {**os.environ, **dagster_environment(database_urls.worker, tmp_path, port)}
    environment["INGEST_WORKER_DATABASE_URL"] = database_urls.worker
    with subprocess.Popen(command, env=environment, cwd=PROJECT_ROOT) as server:
        try:
            process = psutil.Process(server.pid)
            fork_server = wait_for(lambda: fork_server_of(process), "a fork server", 60)
            wait_for(
                lambda: any("psycopg2" in mapped.path for mapped in fork_server.memory_maps()),
                "imports in the fork server",
                120,
            )
            assert fork_server.num_threads() == 1, "a process with threads is not safe to fork"
        finally:
            server.terminate()


def test_an_empty_line_of_env_does_not_undo_what_the_environment_sets(
    instance: dg.DagsterInstance, tmp_path: "Path", monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("INGEST_OPENAI_API_KEY=\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INGEST_OPENAI_API_KEY", "sk-set")
    monkeypatch.setattr(utils, "_inject_local_env_file", utils._inject_local_env_file)  # as it was, after the test
    seen = []
    for keep in (False, True):
        if keep:
            warm_code_server.keep_environment()
        with utils.get_instance_for_cli(instance_ref=instance.get_ref()):  # as Dagster's code server begins
            seen.append(os.environ["INGEST_OPENAI_API_KEY"])
    assert seen == ["", "sk-set"]


def test_runs_of_a_code_server_that_is_gone_end_and_leave_the_queue(instance: dg.DagsterInstance) -> None:
    status = dg.DagsterRunStatus
    states = [each for each in status if each is not status.QUEUED]  # which wants a code location
    runs = {each: create_run_for_test(instance, status=each).run_id for each in states}
    under_way = {status.STARTING, status.STARTED, status.CANCELING}
    assert set(warm_code_server.end_runs_of_the_dead(instance)) == {runs[each] for each in under_way}
    now = {each: instance.get_run_by_id(run_id) for each, run_id in runs.items()}
    for before, run in now.items():
        assert run is not None
        expected = {status.STARTING: status.FAILURE, status.STARTED: status.FAILURE, status.CANCELING: status.CANCELED}
        assert run.status is expected.get(before, before)


def test_dagster_is_built_as_the_replacements_assume(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(sensor, "MIN_INTERVAL_LOOP_TIME", 5)
    monkeypatch.setattr(controller, "DEFAULT_DAEMON_INTERVAL_SECONDS", 30)
    monkeypatch.setattr(QueuedRunCoordinator, "dequeue_interval_seconds", QueuedRunCoordinator.dequeue_interval_seconds)
    monkeypatch.setattr(prompt_daemon.run_command, "main", lambda arguments, **_: told.append(arguments))
    prompt_daemon.run_daemon(PROJECT_ROOT / "workspace.yaml")
    assert told == [["--workspace", str(PROJECT_ROOT / "workspace.yaml")]]
    assert QueuedRunCoordinator(dequeue_interval_seconds=9).dequeue_interval_seconds == prompt_daemon.ROUND_SECONDS
    assert prompt_daemon.ROUND_SECONDS == sensor.MIN_INTERVAL_LOOP_TIME
    assert prompt_daemon.BACKFILL_SECONDS == controller.DEFAULT_DAEMON_INTERVAL_SECONDS
    assert "DEFAULT_DAEMON_INTERVAL_SECONDS" in backfill.execute_backfill_iteration_loop.__code__.co_names

    servicer = warm_code_server.WarmApiServer(threading.Event(), dg.get_dagster_logger(), None)  # type: ignore[arg-type]
    assert servicer._mp_ctx is multiprocessing.get_context("forkserver")
    assert warm_code_server.server.DagsterApiServer.__init__.__code__.co_names.count("_mp_ctx") == 1
