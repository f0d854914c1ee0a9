"""The embedded PostgreSQL as real processes: who it runs as, what it survives, what it says when it can't start."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from ingestion_pipeline.errors import StartupError
from ingestion_pipeline.local_stack import run_as
from ingestion_pipeline.local_stack.embedded_postgres import EmbeddedPostgres
from ingestion_pipeline.local_stack.postgres_settings import installed_programs
from ingestion_pipeline.local_stack.process_sessions import send

PROJECT = Path(__file__).parents[2]
NAMELESS_UID = 64_321

# Starts the server of argv[1] with the programs of argv[2], after whatever preparation is put in its place.
STARTER = """
import json, os, pwd, sys
from pathlib import Path
import psycopg2
from ingestion_pipeline.errors import StartupError
from ingestion_pipeline.local_stack.embedded_postgres import EmbeddedPostgres
PREPARATION
postgres = EmbeddedPostgres(Path(sys.argv[1]), durable=False, programs=Path(sys.argv[2]))
try:
    server = postgres.start()
except StartupError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit(0)
connection = psycopg2.connect(server.url())
with connection.cursor() as cursor:
    cursor.execute("CREATE EXTENSION vector")
    cursor.execute("SELECT '[1,2]'::vector::text")
    print(json.dumps({"answer": cursor.fetchone()[0], "url": server.url()}), flush=True)
connection.close()
FINISH
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that every user can pass through; a server in its `data` is stopped afterwards."""
    path = Path(tempfile.mkdtemp(prefix="embedded-postgres-"))
    path.chmod(0o711)
    yield path
    EmbeddedPostgres(path / "data").stop()
    shutil.rmtree(path)


def new_postgres(folder: Path, **options: Any) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder / "data", durable=False, **options)


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def postmaster_of(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "data/cluster/postmaster.pid").read_text().split()[0]))


def is_over(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def copied_programs(folder: Path) -> Path:
    """Copy the PostgreSQL programs, and the libraries they find beside them, below `folder`."""
    package = installed_programs().parents[1]
    target = folder / "site"
    shutil.copytree(package / "pginstall18", target / package.name / "pginstall18", symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    return target / package.name / "pginstall18" / "bin"


def starter(
    folder: Path,
    programs: Path,
    *,
    preparation: str = "",
    finish: str = "postgres.stop()",
    before: tuple[str, ...] = (),
) -> list[str]:
    script = STARTER.replace("PREPARATION", preparation).replace("FINISH", finish)
    return [*before, sys.executable, "-c", script, str(folder / "data"), str(programs)]


def outcome_of(command: list[str]) -> dict[str, str]:
    finished = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, sys.path)])},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    outcome: dict[str, str] = json.loads(finished.stdout)
    return outcome


def user_namespaces_are_allowed() -> bool:
    command = [sys.executable, run_as.__file__, "namespace", "65534", "65534", "/bin/true"]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def test_a_first_start_gives_utf8_with_checksums_pgvector_and_the_settings_of_a_development_machine(
    folder: Path,
) -> None:
    postgres = EmbeddedPostgres(folder / "data")
    server = postgres.start()
    assert rows(server.url(), "CREATE EXTENSION vector") == []
    assert rows(server.url(), "SELECT ('[3,4]'::vector <-> '[0,0]'::vector)") == [(5.0,)]
    assert rows(server.url(), "SELECT datlocale, datctype FROM pg_database WHERE datname = 'template1'") == [
        ("C.UTF-8", "C.UTF-8")
    ]
    settings = dict(rows(server.url(), "SELECT name, setting FROM pg_settings"))
    assert {name: settings[name] for name in ("data_checksums", "fsync", "full_page_writes", "max_connections")} == {
        "data_checksums": "on",
        "fsync": "on",
        "full_page_writes": "on",
        "max_connections": "200",
    }
    assert settings["server_encoding"] == "UTF8"
    assert settings["server_version"].startswith("18")
    assert postgres.is_running()
    postgres.stop()
    assert not postgres.is_running()


def test_a_throwaway_server_gives_up_durability(folder: Path) -> None:
    server = new_postgres(folder).start()
    names = "('fsync', 'synchronous_commit', 'full_page_writes')"
    assert set(rows(server.url(), f"SELECT setting FROM pg_settings WHERE name IN {names}")) == {("off",)}


def test_only_the_password_opens_the_server_and_only_over_loopback(folder: Path) -> None:
    server = new_postgres(folder).start()
    assert rows(server.url(), "SELECT DISTINCT auth_method FROM pg_hba_file_rules") == [("scram-sha-256",)]
    assert rows(server.url(), "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolcanlogin") == [(True,)]
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(server.url().replace(server.password, "wrong"))
    process = postmaster_of(folder)
    listening = {connection.laddr for connection in process.net_connections("tcp") if connection.status == "LISTEN"}
    assert listening == {("127.0.0.1", server.port)}
    assert process.net_connections("unix") == []
    assert stat.S_IMODE((folder / "data/password").stat().st_mode) == 0o600
    assert server.password == (folder / "data/password").read_text()
    assert server.password not in repr(server)


def test_starting_twice_gives_the_same_server(folder: Path) -> None:
    first = new_postgres(folder).start()
    process = postmaster_of(folder)
    assert new_postgres(folder).start() == first
    assert postmaster_of(folder) == process


def test_two_that_start_the_same_folder_at_once_share_one_server(folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda postgres: postgres.start(), [new_postgres(folder), new_postgres(folder)])
    assert first == second
    assert rows(first.url(), "SELECT 1") == [(1,)]


def test_committed_rows_are_there_after_kill_9_of_the_whole_server(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "data").start()
    rows(server.url(), "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number")
    postmaster = postmaster_of(folder)
    send(signal.SIGKILL, [postmaster, *postmaster.children()])
    again = EmbeddedPostgres(folder / "data").start()
    assert again == server
    assert rows(again.url(), "SELECT count(*) FROM kept") == [(1000,)]


def test_a_busy_backend_that_outlived_its_postmaster_does_not_prevent_the_next_start(folder: Path) -> None:
    server = new_postgres(folder).start()
    postmaster = postmaster_of(folder)
    busy = subprocess.Popen(
        [str(installed_programs() / "psql"), server.url(), "-c", "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$"],
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: rows(server.url(), "SELECT pid FROM pg_stat_activity WHERE query LIKE 'DO %'"))
    backend = psutil.Process(rows(server.url(), "SELECT pid FROM pg_stat_activity WHERE query LIKE 'DO %'")[0][0])
    postmaster.kill()
    wait_for(lambda: is_over(postmaster))
    assert not is_over(backend), "the test needs an orphan"
    again = new_postgres(folder).start()
    assert rows(again.url(), "SELECT 1") == [(1,)]
    assert is_over(backend)
    busy.wait(timeout=10)


@pytest.mark.parametrize("content", ["{pid}\n{cluster}\n1\n", ""], ids=["a recycled process id", "cut short"])
def test_a_stale_pid_file_is_seen_through(folder: Path, content: str) -> None:
    postgres = new_postgres(folder)
    postgres.start()
    postgres.stop()
    with subprocess.Popen(["sleep", "60"]) as unrelated:
        try:
            cluster = folder / "data/cluster"
            (cluster / "postmaster.pid").write_text(content.format(pid=unrelated.pid, cluster=cluster))
            assert rows(postgres.start().url(), "SELECT 1") == [(1,)]
            assert unrelated.poll() is None
            postgres.stop()
            assert unrelated.poll() is None
        finally:
            unrelated.kill()


def test_the_server_of_a_killed_starter_is_adopted(folder: Path) -> None:
    command = starter(folder, installed_programs(), finish="import time; time.sleep(60)")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as killed:
        assert killed.stdout is not None
        url = json.loads(killed.stdout.readline())["url"]
        killed.kill()
    process = postmaster_of(folder)
    postgres = new_postgres(folder)
    assert postgres.is_running()
    assert postgres.start().url() == url
    assert postmaster_of(folder) == process
    postgres.stop()
    assert is_over(process)


def test_the_port_is_kept_unless_somebody_else_has_taken_it(folder: Path) -> None:
    postgres = new_postgres(folder)
    first = postgres.start().port
    postgres.stop()
    assert postgres.start().port == first
    postgres.stop()
    with socket.create_server(("127.0.0.1", first)):
        second = postgres.start()
        assert second.port != first
        assert rows(second.url(), "SELECT 1") == [(1,)]
        postgres.stop()
    assert postgres.start().port == second.port


def test_a_crash_during_the_first_initialisation_leaves_nothing_in_the_way(folder: Path) -> None:
    with subprocess.Popen(starter(folder, installed_programs()), start_new_session=True, cwd=PROJECT) as killed:
        wait_for(lambda: list((folder / "data").glob("initialising-*/cluster/PG_VERSION")))
        os.killpg(killed.pid, signal.SIGKILL)
    assert not (folder / "data/cluster").exists(), "the test needs a crash before the end of initdb"
    server = new_postgres(folder).start()
    assert rows(server.url(), "SELECT 1") == [(1,)]
    assert list((folder / "data").glob("initialising-*")) == []


def test_a_server_that_cannot_start_says_why_and_what_to_do(folder: Path) -> None:
    postgres = new_postgres(folder)
    postgres.start()
    postgres.stop()
    with (folder / "data/cluster/postgresql.conf").open("a") as configuration:
        configuration.write("no_such_setting = 1\n")
    with pytest.raises(StartupError) as failure:
        postgres.start()
    assert 'unrecognized configuration parameter "no_such_setting"' in failure.value.message
    assert str(folder / "data/server.log") in failure.value.message
    assert "start again" in failure.value.message
    assert not postgres.is_running()


@pytest.mark.parametrize(("file", "content"), [("cluster/PG_VERSION", "17\n"), ("password", None)])
def test_data_that_this_version_cannot_open_are_left_alone(folder: Path, file: str, content: str | None) -> None:
    postgres = new_postgres(folder)
    postgres.start()
    postgres.stop()
    if content is None:
        (folder / "data" / file).unlink()
    else:
        (folder / "data" / file).write_text(content)
    with pytest.raises(StartupError, match=r"is of PostgreSQL 17, and 18 is installed|password is missing"):
        postgres.start()
    assert (folder / "data/cluster/base").is_dir()


def test_programs_and_data_below_a_closed_folder_are_reached_without_opening_it(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    programs = copied_programs(closed)
    postgres = new_postgres(closed, programs=programs)
    try:
        assert rows(postgres.start().url(), "SELECT 1") == [(1,)]
        process = postmaster_of(closed)
        assert Path(process.exe()) == programs / "postgres"
        assert 0 not in process.uids()
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    finally:
        postgres.stop()


def test_an_ordinary_user_runs_the_server_as_themselves(folder: Path) -> None:
    uid = os.geteuid()
    preparation = ""
    if uid == 0:
        uid = 65534
        os.chown(folder, uid, uid)
        preparation = f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})"
    command = starter(folder, copied_programs(folder), preparation=preparation, finish="")
    assert outcome_of(command)["answer"] == "[1,2]"
    assert set(postmaster_of(folder).uids()) == {uid}
    assert (folder / "data/password").stat().st_uid == uid
    # And root, coming later, carries on as the owner of the data.
    process = postmaster_of(folder)
    new_postgres(folder).stop()
    assert is_over(process)
    new_postgres(folder).start()
    assert set(postmaster_of(folder).uids()) == {uid}


def test_a_user_without_a_name_works_where_the_system_allows_and_is_told_why_otherwise(folder: Path) -> None:
    before: tuple[str, ...] = ()
    if os.geteuid() == 0:  # the capability lets that user reach this Python, wherever it is installed
        os.chown(folder, NAMELESS_UID, NAMELESS_UID)
        before = (sys.executable, run_as.__file__, "capability", str(NAMELESS_UID), str(NAMELESS_UID))
    outcome = outcome_of(starter(folder, installed_programs(), before=before))
    if os.geteuid() != 0 or user_namespaces_are_allowed():
        assert outcome["answer"] == "[1,2]"
    else:
        assert "/etc/passwd" in outcome["error"]


def test_root_that_may_not_change_its_identity_works_in_a_user_namespace_or_is_told_what_to_allow(folder: Path) -> None:
    # Without SETUID and SETPCAP in the bounding set, a program that root starts lacks both (24: PR_CAPBSET_DROP).
    preparation = ""
    if os.geteuid() == 0:
        preparation = (
            "import ctypes\n"
            "if 'again' not in sys.argv:\n"
            "    assert [ctypes.CDLL(None).prctl(24, number, 0, 0, 0) for number in (7, 8)] == [0, 0]\n"
            "    os.execv(sys.executable, [*sys.orig_argv, 'again'])\n"
        )
    outcome = outcome_of(starter(folder, installed_programs(), preparation=preparation))
    if os.geteuid() != 0 or user_namespaces_are_allowed():
        assert outcome["answer"] == "[1,2]"
    else:
        assert "allow the capabilities SETUID" in outcome["error"]
