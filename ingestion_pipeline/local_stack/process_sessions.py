"""The processes of a supervised service: found without mistaking others for ours, and ended without leaving any.

Each service leads a session of its own, which its descendants share. Two things survive a killed supervisor: the record
of the leader (process id and creation time, since ids are used again), and a marker in the environment of every
descendant, which finds also those that have left the session or outlived its leader.
"""

import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MARKER_VARIABLE = "INGEST_SUPERVISOR_MARKER"
SAME_CREATION_SECONDS = 1.0  # psutil derives it from the clock, which may have been set meanwhile
POLL_SECONDS = 0.05
KILL_WAIT_SECONDS = 5.0


def marker_of(run_dir: Path) -> str:
    """Return the marker of `run_dir`'s processes, made up and stored on first use."""
    file = run_dir / "marker"
    if not file.exists() or not file.read_text().strip():
        draft = run_dir / "marker.draft"
        draft.write_text(secrets.token_hex(16))
        draft.replace(file)
    return file.read_text().strip()


def write_record(run_dir: Path, name: str, process_id: int) -> None:
    """Record the leader of the service `name`. A leader that has ended already needs no record."""
    try:
        record = {"pid": process_id, "create_time": psutil.Process(process_id).create_time()}
    except psutil.NoSuchProcess:
        return
    draft = run_dir / f"{name}.json.draft"
    draft.write_text(json.dumps(record))
    draft.replace(run_dir / f"{name}.json")


def remove_record(run_dir: Path, name: str) -> None:
    """Remove the record of the service `name`."""
    (run_dir / f"{name}.json").unlink(missing_ok=True)


def session_members(session_id: int) -> list[psutil.Process]:
    """Return the live processes (no zombies) of a session; its id is the process id of its leader."""
    members = []
    for process_id in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process_id) == session_id and _is_alive(process := psutil.Process(process_id)):
                members.append(process)
    return members


def marked_processes(marker: str) -> list[psutil.Process]:
    """Return the live processes that have inherited `marker`, wherever they are; never this one or its ancestors."""
    ourselves = psutil.Process()
    spared = {ourselves.pid, *(parent.pid for parent in ourselves.parents())}
    marked = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if process.pid not in spared and process.environ().get(MARKER_VARIABLE) == marker and _is_alive(process):
                marked.append(process)
    return marked


def end_leftovers(run_dir: Path, marker: str, patience_seconds: float) -> list[psutil.Process]:
    """End all that an earlier supervisor of `run_dir` has left, remove its records, and return what was ended."""
    leaders = []
    records = sorted(run_dir.glob("*.json"))
    for record in records:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, psutil.Error):
            content = json.loads(record.read_text())
            process = psutil.Process(int(content["pid"]))
            if abs(process.create_time() - float(content["create_time"])) <= SAME_CREATION_SECONDS:
                leaders.append(process.pid)

    def remaining() -> list[psutil.Process]:
        found = {process.pid: process for process in marked_processes(marker)}
        for leader in leaders:
            found |= {process.pid: process for process in session_members(leader)}
        return list(found.values())

    ended = end(remaining, patience_seconds)
    for record in records:
        record.unlink(missing_ok=True)
    return ended


def end(remaining: Callable[[], list[psutil.Process]], patience_seconds: float) -> list[psutil.Process]:
    """SIGTERM, and after `patience_seconds` SIGKILL, until `remaining` finds none; return all that it has found.

    Gives up 5 seconds after SIGKILL: a process in an uninterruptible state ends when the kernel lets it.
    """
    deadline = time.monotonic() + patience_seconds
    told: dict[int, psutil.Process] = {}
    while found := remaining():
        send(signal.SIGTERM, [process for process in found if process.pid not in told])
        told |= {process.pid: process for process in found}
        if time.monotonic() >= deadline:
            send(signal.SIGKILL, found)
            if time.monotonic() >= deadline + KILL_WAIT_SECONDS:
                break
        time.sleep(POLL_SECONDS)
    return list(told.values())


def send(number: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    """Send a signal to those of `processes` that still exist; psutil never signals a process id that is used anew."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _is_alive(process: psutil.Process) -> bool:
    return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
