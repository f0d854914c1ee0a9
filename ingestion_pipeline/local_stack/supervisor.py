"""Runs the services of the local stack: starts them in order, restarts what dies, and leaves nothing behind.

The decisions are here; a single process is in `supervised_child.py`, finding and ending processes in
`process_sessions.py`. One loop in the caller's thread does all of it. Call everything from the main thread: signals
arrive there, and on Linux the kernel ends the services together with the thread that started them.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from ingestion_pipeline.errors import StartupError
from ingestion_pipeline.local_stack import process_sessions
from ingestion_pipeline.local_stack.services import Service, prerequisites
from ingestion_pipeline.local_stack.supervised_child import ChildState, SupervisedChild, described_status

__all__ = ["Service", "Supervisor"]

POLL_SECONDS = 0.05
DEATHS_ALLOWED = 5
DEATHS_WINDOW_SECONDS = 30.0
BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MAXIMUM_SECONDS = 5.0
LEFTOVER_PATIENCE_SECONDS = 5.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

logger = logging.getLogger(__name__)


class Supervisor:
    """Supervises `services`; a context manager that starts on entry and stops on exit.

    Writes each service's output to `log_dir`/<name>.log and keeps its own records in `run_dir`, which one supervisor at
    a time may use. `on_event` receives one line of text for each thing that happens; by default they are logged.
    """

    def __init__(
        self,
        services: Sequence[Service],
        log_dir: Path,
        run_dir: Path,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """Raises ConfigurationError if the list of services makes no sense."""
        self._services = tuple(services)
        self._after = prerequisites(self._services)
        self._log_dir = log_dir.resolve()
        self._run_dir = run_dir.resolve()
        self._on_event = on_event or logger.info
        self._children: dict[str, SupervisedChild] = {}
        self._lock: FileLock | None = None
        self._marker = ""
        self._stop_requests = 0
        self._former_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> bool:
        """Start all services and return True once all are ready; False if a stop was requested meanwhile.

        First ends what a killed supervisor of the same `run_dir` has left. Raises StartupError, with everything stopped
        again, if another supervisor is at work there, or if a service dies repeatedly or isn't ready in time.
        """
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._acquire_lock()
        try:
            self._stop_requests = 0
            self._install_handlers()
            self._marker = process_sessions.marker_of(self._run_dir)
            leftovers = process_sessions.end_leftovers(self._run_dir, self._marker, LEFTOVER_PATIENCE_SECONDS)
            if leftovers:
                self._on_event(f"ended {len(leftovers)} processes that an earlier run had left")
            self._children = {
                service.name: SupervisedChild(service, self._log_dir, self._run_dir, self._marker)
                for service in self._services
            }
            while not self._stop_requests and not all(child.was_ready for child in self._children.values()):
                self._supervise_once()
        except BaseException:
            self.stop()
            raise
        return not self._stop_requests

    def wait(self) -> None:
        """Supervise until a stop is requested (SIGINT, SIGTERM, SIGHUP or `request_stop`); then call `stop`.

        Raises StartupError, with everything stopped, if a service dies 5 times within 30 s, or isn't ready in time when
        restarted.
        """
        try:
            while self._lock is not None and not self._stop_requests:
                self._supervise_once()
        except BaseException:
            self.stop()
            raise

    def request_stop(self) -> None:
        """Make `start` or `wait` return soon. A second request, while stopping, ends all services at once."""
        self._stop_requests += 1

    def stop(self) -> None:
        """Stop all services, those that others depend on last, and give up `run_dir`. Does nothing if none is started.

        Each gets SIGTERM and, after its `stop_timeout`, SIGKILL; so does everything that they have started.
        """
        if self._lock is None:
            return
        try:
            running = {name: child for name, child in self._children.items() if child.process_id is not None}
            requests_before = max(1, self._stop_requests)
            while running:
                self._stop_once(running, in_a_hurry=self._stop_requests > requests_before)
                if running:
                    time.sleep(POLL_SECONDS)
            strays = process_sessions.end(lambda: process_sessions.marked_processes(self._marker), patience_seconds=1.0)
            if strays:
                self._on_event(f"ended {len(strays)} processes that had left their service's session")
        finally:
            self._children = {}
            self._restore_handlers()
            self._lock.release()
            self._lock = None

    def _supervise_once(self) -> None:
        for child in self._children.values():
            if child.state is ChildState.WAITING:
                self._launch_if_due(child)
            elif (status := child.exit_status()) is not None:
                self._note_death(child, status)
            elif child.state is ChildState.STARTING:
                self._note_readiness(child)
        time.sleep(POLL_SECONDS)

    def _launch_if_due(self, child: SupervisedChild) -> None:
        if time.monotonic() < child.launch_not_before:
            return
        if all(self._children[name].was_ready for name in self._after[child.service.name]):
            self._on_event(f"{child.service.name}: starting")
            child.launch()

    def _note_readiness(self, child: SupervisedChild) -> None:
        elapsed = time.monotonic() - child.launched_at
        # Asked first, looked at second: a service that died before it could answer hasn't given that answer.
        if child.is_ready() and child.exit_status() is None:
            child.state = ChildState.READY
            child.was_ready = True
            self._on_event(f"{child.service.name}: ready after {elapsed:.1f} s")
        elif elapsed > child.service.ready_timeout:
            raise child.failure(f"wasn't ready after {child.service.ready_timeout:g} s")

    def _note_death(self, child: SupervisedChild, status: int) -> None:
        now = time.monotonic()
        child.clear_after_death()
        child.deaths = [moment for moment in child.deaths if now - moment < DEATHS_WINDOW_SECONDS] + [now]
        if len(child.deaths) >= DEATHS_ALLOWED:
            raise child.failure(
                f"{described_status(status)}, for the {len(child.deaths)}th time within {DEATHS_WINDOW_SECONDS:.0f} s"
            )
        pause = min(BACKOFF_MAXIMUM_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** (len(child.deaths) - 1))
        child.launch_not_before = now + pause
        child.state = ChildState.WAITING
        self._on_event(
            f"{child.service.name}: {described_status(status)}; starting again in {pause:.1f} s, see {child.log}"
        )

    def _stop_once(self, running: dict[str, SupervisedChild], *, in_a_hurry: bool) -> None:
        now = time.monotonic()
        needed = {name for dependent in running for name in self._after[dependent]}
        for name, child in list(running.items()):
            if child.stop_deadline is None and (in_a_hurry or name not in needed):
                self._on_event(f"{name}: stopping")
                child.send(signal.SIGTERM)
                child.stop_deadline = now + child.service.stop_timeout
            if child.stop_deadline is None:
                continue
            if child.is_gone():
                child.remove_record()
                del running[name]
            elif in_a_hurry or now >= child.stop_deadline:
                if not child.was_killed:
                    self._on_event(f"{name}: killing")
                    child.was_killed = True
                child.send(signal.SIGKILL)  # again each time: what was just being forked was missed before

    def _acquire_lock(self) -> None:
        if self._lock is not None:
            raise StartupError("This supervisor has been started already.")
        # The kernel releases this lock with the process, however it ends.
        lock = FileLock(self._run_dir / "supervisor.lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise StartupError(
                f"Another supervisor is at work in {self._run_dir}: the services run already. "
                "Stop that one first, or give this one another folder."
            ) from None
        self._lock = lock

    def _install_handlers(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays in force
                self._former_handlers[number] = signal.signal(number, self._handle_signal)

    def _restore_handlers(self) -> None:
        for number, handler in self._former_handlers.items():
            signal.signal(number, handler)
        self._former_handlers = {}

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  the form that signals ask for
        self.request_stop()
