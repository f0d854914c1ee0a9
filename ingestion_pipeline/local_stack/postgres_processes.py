"""Which processes belong to a data folder of PostgreSQL: its postmaster, and what a killed postmaster left behind.

Never by process id alone: after a crash or a reboot the id in postmaster.pid may be anybody's. Every process of a
server has the data folder as its working directory, and that is what decides here.
"""

import signal
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

HOST = "127.0.0.1"
SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # the one message that is answered, with one byte, before any login
ANSWER_SECONDS = 2.0
SERVER_PROCESS_NAME = "postgres"
ORPHAN_GRACE_SECONDS = 3.0
KILL_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Postmaster:
    """A live postmaster: its process, its TCP port, and its state ("starting", "ready", "stopping", "" if unknown)."""

    process: psutil.Process
    port: int | None
    status: str

    def answers(self) -> bool:
        """Tell whether the server takes connections now: one that was just killed looks "ready" until it is gone."""
        if self.status != "ready" or self.port is None:
            return False
        try:
            with socket.create_connection((HOST, self.port), timeout=ANSWER_SECONDS) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.sendall(SSL_REQUEST)
                return connection.recv(1) in (b"S", b"N")
        except OSError:
            return False


def works_in(process: psutil.Process, cluster: Path) -> bool:
    """Tell whether `process` is a live (not a zombie) server process of the data folder `cluster`."""
    try:
        if process.name() != SERVER_PROCESS_NAME or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return Path(process.cwd()) == cluster
    except (psutil.Error, OSError):  # gone meanwhile, or somebody else's: a server of ours can be read by its starter
        return False


def find_postmaster(cluster: Path) -> Postmaster | None:
    """Return the live postmaster of `cluster` (a resolved path) if postmaster.pid names one, else None."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        process = psutil.Process(int(lines[0]))
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    if not works_in(process, cluster):
        return None
    # Lines, as PostgreSQL's pidfile.h numbers them: process id, data folder, start time, port, socket folder, listen
    # address, shared memory key, status. The later ones appear while the server starts.
    port = int(lines[3]) if len(lines) > 3 and lines[3].strip().isdigit() else None
    status = lines[7].strip() if len(lines) > 7 else ""
    return Postmaster(process, port, status)


def remove_misleading_pid_file(cluster: Path) -> None:
    """Remove a postmaster.pid whose process id now belongs to an unrelated process (or to a zombie).

    PostgreSQL would take that process for a running server. A file whose process is gone stays: PostgreSQL removes it
    itself, after making sure that the shared memory it names is unused.
    """
    pid_file = cluster / "postmaster.pid"
    try:
        process_id = int(pid_file.read_text().splitlines()[0])
    except FileNotFoundError:
        return
    except (ValueError, IndexError):  # cut short by a crash: PostgreSQL would refuse to start because of it
        pid_file.unlink()
        return
    if psutil.pid_exists(process_id) and find_postmaster(cluster) is None:
        pid_file.unlink()


def end_orphans(cluster: Path) -> int:
    """End the server processes of `cluster` that have outlived their postmaster, and return how many there were.

    They hold the shared memory, so that no new server can start. Only call this when `find_postmaster` found none.
    SIGQUIT is PostgreSQL's "leave at once"; the coming recovery treats it like any crash.
    """
    orphans = [process for process in psutil.process_iter() if works_in(process, cluster)]
    for number, patience in ((signal.SIGQUIT, ORPHAN_GRACE_SECONDS), (signal.SIGKILL, KILL_WAIT_SECONDS)):
        for process in orphans:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        if wait_until_gone(orphans, cluster, patience):
            break
    return len(orphans)


def wait_until_gone(processes: list[psutil.Process], cluster: Path, seconds: float) -> bool:
    """Wait up to `seconds` until none of `processes` works in `cluster` any more; a zombie counts as gone."""
    deadline = time.monotonic() + seconds
    while any(process.is_running() and works_in(process, cluster) for process in processes):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True
