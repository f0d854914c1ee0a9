"""One service's process, as the supervisor sees it: launched, asked, signalled, and its log file.

Decisions (when to start, when to give up) are the supervisor's.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from ingestion_pipeline.errors import StartupError
from ingestion_pipeline.local_stack import process_sessions
from ingestion_pipeline.local_stack.services import ReadinessCheck, Service, accepts_connections, ready_address

DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")
LOG_MAXIMUM_BYTES = 10_000_000
LOG_LINES_SHOWN = 20
LOG_TAIL_BYTES = 64_000


class ChildState(Enum):
    """WAITING for others or for its next attempt -> STARTING -> READY; back to WAITING after a death."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"


class SupervisedChild:
    """The current process of `service`, its readiness and its past deaths (monotonic seconds)."""

    def __init__(self, service: Service, log_dir: Path, run_dir: Path, marker: str) -> None:
        self.service = service
        self.log = log_dir / f"{service.name}.log"
        self.state = ChildState.WAITING
        self.was_ready = False
        self.launch_not_before = 0.0
        self.launched_at = 0.0
        self.deaths: list[float] = []
        self.stop_deadline: float | None = None
        self.was_killed = False
        self._run_dir = run_dir
        self._marker = marker
        self._process: subprocess.Popen[bytes] | None = None
        self._check = ReadinessCheck(service)

    @property
    def process_id(self) -> int | None:
        """The process id of the service, which is also its session's id; None while none is launched."""
        return None if self._process is None else self._process.pid

    def launch(self) -> None:
        """Start the process in a session of its own. Raises StartupError if its command or its address can't be had."""
        environment = {**os.environ, **self.service.environment, process_sessions.MARKER_VARIABLE: self._marker}
        command = list(self.service.command)
        directory = self.service.working_directory
        if directory is not None and not directory.is_dir():
            raise StartupError(f"The service {self.service.name!r} can't be started: there is no folder {directory}.")
        if not _is_runnable(command[0], directory, environment):
            raise StartupError(
                f"The service {self.service.name!r} can't be started: there is no program {command[0]!r}. "
                "Install it, or correct the command."
            )
        address = ready_address(self.service)
        if not self.was_ready and address is not None and accepts_connections(address):
            raise StartupError(
                f"The service {self.service.name!r} can't be started: another program already listens at "
                f"{address.hostname}:{address.port or 80}. End that program, or give the service another port."
            )
        if sys.platform.startswith("linux"):
            command = [sys.executable, "-I", "-S", str(DIE_WITH_PARENT), str(os.getpid()), *command]
        if self.log.exists() and self.log.stat().st_size > LOG_MAXIMUM_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            log.write(f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {self.service.name} starts\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=directory,
                start_new_session=True,
            )
        process_sessions.write_record(self._run_dir, self.service.name, self._process.pid)
        self._check = ReadinessCheck(self.service)
        self.launched_at = time.monotonic()
        self.state = ChildState.STARTING

    def exit_status(self) -> int | None:
        """Return the status of the ended process (negative: the signal), None while it runs or none is launched."""
        return None if self._process is None else self._process.poll()

    def is_ready(self) -> bool:
        """Tell whether the service says that it can be used; it may have died since it was asked."""
        return self._check.is_ready()

    def is_gone(self) -> bool:
        """Tell whether the process and everything in its session have ended."""
        if self._process is None:
            return True
        return self._process.poll() is not None and not process_sessions.session_members(self._process.pid)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to every process of the session."""
        if self._process is not None:
            process_sessions.send(number, process_sessions.session_members(self._process.pid))

    def clear_after_death(self) -> None:
        """Forget the dead process, and kill what it has left in its session: it may hold the port that is needed."""
        process_id = self.process_id
        if process_id is not None:
            process_sessions.end(lambda: process_sessions.session_members(process_id), patience_seconds=0.0)
            self.remove_record()
            self._process = None

    def remove_record(self) -> None:
        """Remove the record of the process; only once it is gone."""
        process_sessions.remove_record(self._run_dir, self.service.name)

    def failure(self, reason: str) -> StartupError:
        """Return the error that names the service, the reason, its last log lines and where the log is."""
        error = f" Its readiness check said: {self._check.last_error}." if self._check.last_error else ""
        return StartupError(
            f"The service {self.service.name!r} {reason}.{error} The last lines of {self.log}:\n"
            + "\n".join(f"  {line}" for line in self._last_log_lines())
        )

    def _last_log_lines(self) -> list[str]:
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
                return log.read().decode(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        except FileNotFoundError:
            return []


def described_status(status: int) -> str:
    """Return an exit status in words: `ended with status 3`, `was ended by SIGKILL`."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _is_runnable(program: str, directory: Path | None, environment: dict[str, str]) -> bool:
    if "/" in program:
        path = (directory or Path.cwd()) / program
        return path.is_file() and os.access(path, os.X_OK)
    return shutil.which(program, path=environment.get("PATH", os.defpath)) is not None
