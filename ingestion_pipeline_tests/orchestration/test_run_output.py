"""What a run prints is in Dagster's files and where the code server prints, also when the run is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from dagster._core.storage.compute_log_manager import ComputeIOType

from ingestion_pipeline.dagster_defs.run_output import TeeComputeLogManager
from orchestration.pipeline_under_test import wait_for

KEY = ["run", "compute_logs", "step"]
RUN = """
import os, subprocess, sys
from ingestion_pipeline.dagster_defs.run_output import TeeComputeLogManager
print("before")
with TeeComputeLogManager(sys.argv[1]).capture_logs(["run", "compute_logs", "step"]):
    print("from Python")
    print("an error", file=sys.stderr)
    os.write(1, b"past Python\\n")
    subprocess.run(["sh", "-c", "echo from a child"], check=True)
    if sys.argv[2] == "wait":
        print("waits", flush=True)
        sys.stdin.read()
print("after")
"""


def started(folder: Path, how: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-u", "-c", RUN, str(folder), how]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def kept(folder: Path, kind: ComputeIOType) -> str:
    data = TeeComputeLogManager(str(folder)).get_log_data(KEY)
    return ((data.stdout if kind is ComputeIOType.STDOUT else data.stderr) or b"").decode()


def test_what_is_printed_is_kept_and_printed_in_order(tmp_path: Path) -> None:
    printed, errors = started(tmp_path, "end").communicate(timeout=60)
    lines = ["from Python", "past Python", "from a child"]
    assert printed.splitlines() == ["before", *lines, "after"]
    assert errors == "an error\n"
    assert kept(tmp_path, ComputeIOType.STDOUT).splitlines() == lines
    assert kept(tmp_path, ComputeIOType.STDERR) == "an error\n"
    assert TeeComputeLogManager(str(tmp_path)).is_capture_complete(KEY)


def test_a_killed_run_leaves_its_lines_and_no_process(tmp_path: Path) -> None:
    run = started(tmp_path, "wait")
    wait_for(lambda: "waits" in kept(tmp_path, ComputeIOType.STDOUT), "the run's last line")
    helpers = psutil.Process(run.pid).children()
    assert len(helpers) == 2
    for helper in helpers:  # as a service manager does that ends everything in a group
        helper.send_signal(signal.SIGTERM)
    os.kill(run.pid, signal.SIGKILL)
    printed, _ = run.communicate(timeout=60)
    assert printed.splitlines()[-1] == "waits"
    assert psutil.wait_procs(helpers, timeout=30)[1] == []
    assert not TeeComputeLogManager(str(tmp_path)).is_capture_complete(KEY)
