"""`ingest up`: the whole pipeline on this machine, until Ctrl-C."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from filelock import FileLock, Timeout

from ingestion_pipeline.errors import ConfigurationError, StartupError
from ingestion_pipeline.local_stack.stack import LocalStack, embedded_postgres
from ingestion_pipeline.local_stack.supervisor import Supervisor
from ingestion_pipeline.settings import Settings, load_settings

DEMO_COMMAND = (sys.executable, "-m", "ingestion_pipeline.cli", "demo")
DEMO_STOPPED_EXIT_STATUS = 130


class Demo:
    """The demo beside the supervisor, which needs the main thread: a process of its own, watched by a thread."""

    def __init__(self, supervisor: Supervisor, *, stop_afterwards: bool) -> None:
        self._supervisor = supervisor
        self._stop_afterwards = stop_afterwards
        self._process = subprocess.Popen(DEMO_COMMAND)
        self._thread = threading.Thread(target=self._watch, name="demo", daemon=True)
        self._thread.start()
        self.exit_status = DEMO_STOPPED_EXIT_STATUS

    def _watch(self) -> None:
        self.exit_status = self._process.wait()
        if self._stop_afterwards:
            self._supervisor.request_stop()
        else:
            over = "The demo is over; everything stays up until Ctrl-C."
            click.echo(over if self.exit_status == 0 else "The demo failed.")

    def stop(self) -> None:
        """End the demo if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        self._thread.join()


@click.command()
@click.option("--demo", is_flag=True, help="Ingest the sample documents once everything is up.")
@click.option("--exit-after-demo", is_flag=True, help="Run the demo, then stop; the exit status is the demo's.")
def up(*, demo: bool, exit_after_demo: bool) -> int:
    """Start everything: PostgreSQL, mocks of the vendors without a key, the API, Dagster. Ctrl-C stops it."""
    settings = load_settings()
    with _only_one(settings.data_dir):
        try:
            return _run(settings, demo=demo, exit_after_demo=exit_after_demo)
        finally:
            if settings.database_url is None:
                embedded_postgres(settings).stop()


def _run(settings: Settings, *, demo: bool, exit_after_demo: bool) -> int:
    stack = LocalStack(settings)
    supervisor = Supervisor(stack.prepare(), stack.log_dir, stack.run_dir, on_event=_say)
    try:
        if not supervisor.start():
            return DEMO_STOPPED_EXIT_STATUS
        _print_addresses(stack)
        if not (demo or exit_after_demo):
            supervisor.wait()
            return 0
        running = Demo(supervisor, stop_afterwards=exit_after_demo)
        try:
            supervisor.wait()
        finally:
            running.stop()
        return running.exit_status if exit_after_demo else 0
    finally:
        supervisor.stop()
        stack.forget_addresses()


def _say(event: str) -> None:
    """To whoever still listens: `ingest up | tee log` loses its reader before it is stopped itself."""
    with suppress(BrokenPipeError):
        click.echo(event)


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Raises StartupError if another `ingest up` has this data folder; the lock ends with its process."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        (data_dir / "up.lock").touch()
    except OSError as error:
        raise ConfigurationError(f"INGEST_DATA_DIR: {data_dir} can't be used: {error.strerror}") from None
    lock = FileLock(data_dir / "up.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StartupError(
            f"another `ingest up` is running on {data_dir}: use it, stop it, or set INGEST_DATA_DIR to another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _print_addresses(stack: LocalStack) -> None:
    width = max(len(address.name) for address in stack.addresses)
    click.echo("")
    for address in stack.addresses:
        click.echo(f"  {address.name:<{width}}  {address.url}" + (f"  ({address.note})" if address.note else ""))
    click.echo(f"  {'Logs':<{width}}  {stack.log_dir}\n")
    click.echo("Try: ingest upload FILE... · ingest status --watch · ingest search 'a question'\n")
