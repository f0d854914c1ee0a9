"""The PostgreSQL (with pgvector) that this project brings along: one data folder, one server, started and stopped here.

The programs come from an installed wheel, whose own Python code is never imported. The server outlives the process that
started it, and whoever starts the same data folder next adopts it. Everything that it needs lies in the data folder:
`cluster/` (PostgreSQL's own), `password`, `port`, `server.log`.
"""

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil
from filelock import FileLock, Timeout

from ingestion_pipeline.errors import StartupError
from ingestion_pipeline.local_stack import postgres_processes, postgres_settings
from ingestion_pipeline.local_stack.postgres_processes import HOST
from ingestion_pipeline.local_stack.server_account import ServerAccount, account_for_initdb, choose_account

SUPERUSER = "ingest_owner"
START_ATTEMPTS = 3
START_TIMEOUT_SECONDS = 180.0  # recovery after a crash replays up to max_wal_size
STOP_TIMEOUT_SECONDS = 30.0
INITDB_TIMEOUT_SECONDS = 180.0
LOCK_TIMEOUT_SECONDS = 240.0
POLL_SECONDS = 0.02
LOG_LINES_SHOWN = 20
LOG_MAXIMUM_BYTES = 10_000_000
PORT_RANGE = (20_000, 32_767)  # below the range from which kernels take the ports of outgoing connections


@dataclass(frozen=True)
class PostgresServer:
    """A running server that accepts connections, and how to log in as its superuser."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    def url(self, database: str = "postgres") -> str:
        """Return the libpq URL of `database`, password included."""
        return (
            f"postgresql://{quote(self.user)}:{quote(self.password)}@{self.host}:{self.port}/{quote(database, safe='')}"
        )


class EmbeddedPostgres:
    """The server of one data folder.

    `durable=False` gives up safety for speed, for throwaway test databases only: a crash loses the last transactions,
    a power loss may lose all. It holds for a server that this object starts, not for one that it adopts. `programs` is
    the folder of postgres and initdb, by default that of the installed wheel.
    """

    def __init__(self, data_dir: Path, *, durable: bool = True, programs: Path | None = None) -> None:
        self._data_dir = data_dir.resolve()
        self._cluster = self._data_dir / "cluster"
        self._log = self._data_dir / "server.log"
        self._durable = durable
        self._programs = programs
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> PostgresServer:
        """Return the running server, started or adopted; the data folder is made on first use.

        Blocks until the server accepts connections, after a crash until its recovery is over. Raises StartupError.
        """
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            if (
                not self._cluster.exists()
                and self._data_dir.stat().st_uid == os.geteuid()
                and not any(self._data_dir.iterdir())
            ):
                self._data_dir.chmod(0o711)  # the server's account may pass through, and not look around
            with self._lock():
                password = self._password()
                port = self._adopt()
                if port is None:
                    port = self._start_new(password)
        except OSError as error:
            raise StartupError(f"The embedded PostgreSQL in {self._data_dir} can't be started: {error}") from error
        return PostgresServer(HOST, port, SUPERUSER, password)

    def stop(self) -> None:
        """Stop the server, whoever started it; open transactions are rolled back. Does nothing if none runs.

        Raises StartupError if the server outlives even SIGKILL.
        """
        if not self._cluster.exists():
            return
        with self._lock():
            postmaster = postgres_processes.find_postmaster(self._cluster)
            if postmaster is not None:
                self._end(postmaster.process)
            postgres_processes.end_orphans(self._cluster)
            self._reap()

    def is_running(self) -> bool:
        """Tell whether the server of this data folder runs and accepts connections, whoever started it."""
        self._reap()
        postmaster = postgres_processes.find_postmaster(self._cluster)
        return postmaster is not None and postmaster.answers()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            with FileLock(self._data_dir / "start.lock", timeout=LOCK_TIMEOUT_SECONDS):
                yield
        except Timeout:
            raise StartupError(
                f"Another process has been starting or stopping {self._data_dir} for too long: end it first."
            ) from None

    def _password(self) -> str:
        file = self._data_dir / "password"
        if not file.exists():
            if self._cluster.exists():
                raise StartupError(
                    f"{file} is missing, and without it nobody can log in to the database in {self._cluster}: "
                    "restore that file, or remove the data folder to begin anew."
                )
            draft = self._data_dir / f"password.{secrets.token_hex(4)}"
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.write(secrets.token_urlsafe(32))
                opened.flush()
                os.fsync(opened.fileno())
            draft.rename(file)
        return file.read_text().strip()

    def _adopt(self) -> int | None:
        """Return the port of the server that already runs here, once it is ready; None if there is none."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while (postmaster := postgres_processes.find_postmaster(self._cluster)) is not None:
            if postmaster.port is not None and postmaster.answers():
                return postmaster.port
            if time.monotonic() >= deadline:
                raise self._failure(
                    f"the server already running as process {postmaster.process.pid} doesn't become ready"
                )
            time.sleep(POLL_SECONDS)
        return None

    def _start_new(self, password: str) -> int:
        programs = self._programs.resolve() if self._programs is not None else postgres_settings.installed_programs()
        account = choose_account(programs, self._data_dir, self._cluster)
        for leftover in self._data_dir.glob("initialising-*"):
            shutil.rmtree(leftover, ignore_errors=True)  # a killed starter's initdb may still be writing to it
        if not self._cluster.exists():
            self._initialise(programs, account, password)
        self._check_version()
        postgres_processes.end_orphans(self._cluster)
        postgres_processes.remove_misleading_pid_file(self._cluster)
        if self._log.exists() and self._log.stat().st_size > LOG_MAXIMUM_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        for _ in range(START_ATTEMPTS):
            port = self._choose_port()
            if self._launch(programs, account, port):
                return port
        raise self._failure("it ended while starting")

    def _initialise(self, programs: Path, account: ServerAccount, password: str) -> None:
        """Make the cluster beside its final place, so that a crash on the way leaves nothing that looks like one."""
        workshop = Path(tempfile.mkdtemp(prefix="initialising-", dir=self._data_dir))
        draft, password_file = workshop / "cluster", workshop / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(password)
        account.give(password_file)
        account.give(workshop)
        initialiser = account_for_initdb(account)
        command = postgres_settings.initdb_command(programs, draft, password_file, SUPERUSER, durable=self._durable)
        with self._log.open("ab") as log:
            outcome = subprocess.run(
                initialiser.command(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=postgres_settings.environment(),
                timeout=INITDB_TIMEOUT_SECONDS,
                check=False,
            )
        if outcome.returncode != 0:
            raise self._failure(f"initdb ended with status {outcome.returncode}{initialiser.difference_from(account)}")
        draft.rename(self._cluster)
        descriptor = os.open(self._data_dir, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        shutil.rmtree(workshop)

    def _check_version(self) -> None:
        version = (self._cluster / "PG_VERSION").read_text().strip()
        if version != postgres_settings.MAJOR_VERSION:
            raise StartupError(
                f"{self._cluster} is of PostgreSQL {version}, and {postgres_settings.MAJOR_VERSION} is installed: "
                "dump it with its own version and load it into a new data folder."
            )

    def _choose_port(self) -> int:
        file = self._data_dir / "port"
        remembered = file.read_text().strip() if file.exists() else ""
        candidates = [int(remembered)] if remembered.isdigit() else []
        candidates += random.sample(range(*PORT_RANGE), 200)
        for port in candidates:
            if _is_free(port):
                if str(port) != remembered:
                    file.write_text(f"{port}\n")
                return port
        raise self._failure(f"no TCP port from {PORT_RANGE[0]} to {PORT_RANGE[1]} is free on {HOST}")

    def _launch(self, programs: Path, account: ServerAccount, port: int) -> bool:
        """Start a server and wait until it is ready; False if somebody else took the port first."""
        command = postgres_settings.server_command(programs, self._cluster, HOST, port, durable=self._durable)
        log_start = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                account.command(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=postgres_settings.environment(),
                start_new_session=True,  # a Ctrl-C in the terminal is for whoever stops the server properly
            )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while self._child.poll() is None:
            postmaster = postgres_processes.find_postmaster(self._cluster)
            if postmaster is not None and postmaster.process.pid == self._child.pid and postmaster.status == "ready":
                return True
            if time.monotonic() >= deadline:
                self._child.send_signal(signal.SIGQUIT)
                raise self._failure(f"it wasn't ready after {START_TIMEOUT_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        with self._log.open("rb") as log:
            log.seek(log_start)
            port_was_taken = b"could not bind" in log.read()
        if not port_was_taken:
            raise self._failure(f"it ended with status {self._child.returncode} while starting")
        return False

    def _end(self, process: psutil.Process) -> None:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, and by the kernel
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                return
            if postgres_processes.wait_until_gone([process], self._cluster, STOP_TIMEOUT_SECONDS):
                return
        raise self._failure(f"process {process.pid} can't be stopped")

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    def _failure(self, reason: str) -> StartupError:
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:] if self._log.exists() else []
        return StartupError(
            f"The embedded PostgreSQL in {self._data_dir} failed: {reason}. The last lines of {self._log}:\n"
            + "\n".join(f"  {line}" for line in lines)
            + "\nRemove the cause and start again; the data stay as they are. If they are dispensable, "
            f"remove {self._data_dir} to begin anew. Or point the pipeline at a PostgreSQL of your own."
        )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as PostgreSQL does: a closing connection is no obstacle
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
