"""The supervisor with real services: order, readiness, restarts, a clean stop, and nothing left after kill -9."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from ingestion_pipeline.errors import ConfigurationError, StartupError
from ingestion_pipeline.local_stack.supervised_child import DIE_WITH_PARENT
from ingestion_pipeline.local_stack.supervisor import Service, Supervisor

PROJECT = Path(__file__).parents[2]

SLEEPER = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)
# Writes its process id and those of two children to argv[1] once the children ignore SIGTERM; one leaves the session.
FAMILY = f"""
import os, pathlib, subprocess, sys, time
stubborn = [sys.executable, "-c", {STUBBORN!r}]
children = [subprocess.Popen(stubborn, stdout=subprocess.PIPE, start_new_session=away) for away in (False, True)]
assert all(child.stdout.readline() for child in children)
draft = pathlib.Path(sys.argv[1] + ".draft")
draft.write_text(" ".join(str(number) for number in (os.getpid(), *(child.pid for child in children))))
draft.replace(sys.argv[1])
time.sleep(600)
"""
# A supervisor in a process of its own: argv is log folder, run folder, and the services as JSON.
DRIVER = """
import json, sys
from pathlib import Path
from ingestion_pipeline.errors import StartupError
from ingestion_pipeline.local_stack.supervisor import Service, Supervisor
services = [Service(**service) for service in json.loads(sys.argv[3])]
try:
    with Supervisor(services, Path(sys.argv[1]), Path(sys.argv[2]), lambda line: print(line, flush=True)) as running:
        print("ALL READY", flush=True)
        running.wait()
except StartupError as error:
    sys.exit(error.message)
"""


class Stack:
    """Makes supervisors over one pair of folders, and collects what they report."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_dir, self.run_dir = folder / "logs", folder / "run"
        self.events: list[str] = []
        self.drivers: list[subprocess.Popen[str]] = []

    def supervisor(self, *services: Service, on_event: Callable[[str], None] | None = None) -> Supervisor:
        def collect(line: str) -> None:
            self.events.append(line)
            if on_event is not None:
                on_event(line)

        return Supervisor(services, self.log_dir, self.run_dir, collect)

    def drive(self, *services: dict[str, Any]) -> subprocess.Popen[str]:
        """Start a supervisor in a process of its own; its events are lines of its standard output."""
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.log_dir), str(self.run_dir), json.dumps(services)],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.drivers.append(driver)
        return driver

    def drive_until_ready(self, *services: dict[str, Any]) -> subprocess.Popen[str]:
        driver = self.drive(*services)
        assert driver.stdout is not None
        for line in driver.stdout:
            if line == "ALL READY\n":
                return driver
        raise AssertionError(driver.communicate()[1])

    def process_of(self, name: str) -> psutil.Process:
        return psutil.Process(json.loads((self.run_dir / f"{name}.json").read_text())["pid"])


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    yield made
    for driver in made.drivers:
        driver.kill()
        driver.communicate()
    with made.supervisor():  # ends whatever a killed one has left
        pass


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", script, *(str(argument) for argument in arguments)]


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "waited in vain"
        time.sleep(0.005)
    return time.monotonic() - started


def is_over(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def family_in(file: Path) -> list[psutil.Process]:
    wait_for(file.exists)
    return [psutil.Process(int(number)) for number in file.read_text().split()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def test_each_service_starts_once_the_one_before_it_is_ready(stack: Stack) -> None:
    port, opened = free_port(), stack.folder / "opened"
    listen_late = (
        "import pathlib, socket, sys, time; time.sleep(0.4); pathlib.Path(sys.argv[2]).touch(); "
        "server = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"
    )
    look = (
        "import pathlib, sys, time; print('saw it:', pathlib.Path(sys.argv[1]).exists(), flush=True); time.sleep(600)"
    )
    seen = stack.log_dir / "second.log"
    first = Service("first", python(listen_late, port, opened), ready=f"tcp://127.0.0.1:{port}")
    second = Service("second", python(look, opened), ready=lambda: "saw it: True" in seen.read_text())
    with stack.supervisor(first, second) as supervisor:
        assert {name: is_over(stack.process_of(name)) for name in ("first", "second")} == {
            "first": False,
            "second": False,
        }
        supervisor.stop()
    assert [event.split(" after ")[0] for event in stack.events[:4]] == [
        "first: starting",
        "first: ready",
        "second: starting",
        "second: ready",
    ]


def test_services_that_do_not_depend_on_each_other_start_side_by_side(stack: Stack) -> None:
    def both_run() -> bool:
        return all((stack.run_dir / f"{name}.json").exists() for name in ("left", "right"))

    services = [Service(name, python(SLEEPER), ready=both_run, ready_timeout=5, after=()) for name in ("left", "right")]
    with stack.supervisor(*services, Service("last", python(SLEEPER), after=("left", "right"))):
        assert stack.events.index("last: starting") > max(
            index for index, event in enumerate(stack.events) if event.startswith(("left: ready", "right: ready"))
        )


def test_an_http_service_is_ready_when_it_stops_answering_with_errors(stack: Stack) -> None:
    port = free_port()
    recovering = """
import http.server, sys
answers = iter([503, 503])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(next(answers, 200)); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
    with stack.supervisor(Service("web", python(recovering, port), ready=f"http://127.0.0.1:{port}/health?deep=1")):
        log = (stack.log_dir / "web.log").read_text()
    assert [line.split('"')[2].strip() for line in log.splitlines() if "GET" in line] == ["503 -", "503 -", "200 -"]
    assert '"GET /health?deep=1 HTTP/1.1"' in log


def test_a_service_gets_the_environment_and_the_folder_that_it_asks_for(stack: Stack) -> None:
    script = (
        "import os, pathlib, time; print(os.environ['COLOUR'], os.environ['PATH'], pathlib.Path.cwd(), flush=True); "
    )
    log = stack.log_dir / "one.log"
    wanted = f"green {os.environ['PATH']} {stack.folder.resolve()}"
    service = Service(
        "one",
        python(script + "time.sleep(600)"),
        environment={"COLOUR": "green"},
        working_directory=stack.folder,
        ready=lambda: wanted in log.read_text(),
        ready_timeout=5,
    )
    with stack.supervisor(service):
        assert wanted in log.read_text()


def test_a_killed_service_is_noticed_at_once_and_started_again(stack: Stack) -> None:
    moments: dict[str, float] = {}
    killed: list[psutil.Process] = []

    def react(line: str) -> None:
        if line.startswith("one: ready") and not killed:
            killed.append(stack.process_of("one"))
            moments["killed"] = time.monotonic()
            killed[0].kill()
        elif line.startswith("one: was ended by SIGKILL; starting again in 0.2 s"):
            moments["noticed"] = time.monotonic()
        elif line.startswith("one: ready"):
            assert stack.process_of("one") != killed[0]
            supervisor.request_stop()

    supervisor = stack.supervisor(Service("one", python(SLEEPER)), on_event=react)
    with supervisor:
        supervisor.wait()
    assert moments["noticed"] - moments["killed"] < 0.5
    assert sum(event.startswith("one: ready") for event in stack.events) == 2


def test_what_a_dead_service_left_in_its_session_ends_before_the_restart(stack: Stack) -> None:
    families: list[list[psutil.Process]] = []
    file = stack.folder / "family"

    def react(line: str) -> None:
        if line.startswith("one: ready") and not families:
            families.append(family_in(file))
            file.unlink()
            families[0][0].kill()
        elif line == "one: starting" and families:
            assert is_over(families[0][1])
            supervisor.request_stop()

    supervisor = stack.supervisor(Service("one", python(FAMILY, file), ready=file.exists), on_event=react)
    with supervisor:
        supervisor.wait()
    assert stack.events.count("one: starting") == 2


def test_a_service_that_dies_again_and_again_stops_everything_and_shows_its_last_words(stack: Stack) -> None:
    healthy: list[psutil.Process] = []
    mortal = "import sys; print('line of', *range(30), sep='\\n'); sys.exit('no such table')"

    def react(line: str) -> None:
        if line.startswith("healthy: ready"):
            healthy.append(stack.process_of("healthy"))

    with pytest.raises(StartupError) as failure:
        stack.supervisor(
            Service("healthy", python(SLEEPER)),
            Service("mortal", python(mortal), ready=lambda: False),
            on_event=react,
        ).start()
    assert "'mortal' ended with status 1, for the 5th time within 30 s" in failure.value.message
    assert failure.value.message.endswith("  no such table")
    assert len([line for line in failure.value.message.splitlines() if line.startswith("  ")]) == 20
    assert str(stack.log_dir / "mortal.log") in failure.value.message
    pauses = [event.split(" again in ")[1].split(" s,")[0] for event in stack.events if " again in " in event]
    assert pauses == ["0.2", "0.4", "0.8", "1.6"]
    assert is_over(healthy[0])


def test_a_service_that_is_not_ready_in_time_stops_everything_and_says_what_its_check_said(stack: Stack) -> None:
    port = free_port()
    slow = Service("slow", python(SLEEPER), ready=f"http://127.0.0.1:{port}/", ready_timeout=0.5)
    processes: list[psutil.Process] = []

    def remember(line: str) -> None:
        if line == "slow: stopping":
            processes.append(stack.process_of("slow"))

    with pytest.raises(StartupError, match=r"'slow' wasn't ready after 0.5 s.*Connection refused"):
        stack.supervisor(slow, on_event=remember).start()
    assert is_over(processes[0])


def test_a_program_that_is_not_there_is_named(stack: Stack) -> None:
    with pytest.raises(StartupError, match="'one' can't be started: there is no program 'no-such-program'"):
        stack.supervisor(Service("one", ["no-such-program"])).start()


def test_a_port_that_another_program_holds_is_not_taken_for_readiness(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(StartupError, match=f"another program already listens at 127.0.0.1:{port}"):
            stack.supervisor(Service("one", python(SLEEPER), ready=f"tcp://127.0.0.1:{port}")).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_services_in_reverse_order_with_their_descendants(
    stack: Stack, number: signal.Signals
) -> None:
    file = stack.folder / "family"
    family_service = {"name": "first", "command": python(FAMILY, file), "stop_timeout": 0.3}
    driver = stack.drive_until_ready(family_service, {"name": "second", "command": python(SLEEPER)})
    family, second = family_in(file), stack.process_of("second")
    driver.send_signal(number)
    output, errors = driver.communicate(timeout=10)
    assert (driver.returncode, errors) == (0, "")
    assert output.splitlines() == [
        "second: stopping",
        "first: stopping",
        "first: killing",
        "ended 1 processes that had left their service's session",
    ]
    assert all(is_over(process) for process in [*family, second])
    assert list(stack.run_dir.glob("*.json")) == []


def test_a_second_signal_kills_what_takes_its_time(stack: Stack) -> None:
    ready = stack.folder / "ready"
    stubborn = STUBBORN.replace("time.sleep", "open(__import__('sys').argv[1], 'w').close(); time.sleep")
    driver = stack.drive_until_ready({"name": "one", "command": python(stubborn, ready), "stop_timeout": 60})
    wait_for(ready.exists)
    assert driver.stdout is not None
    driver.send_signal(signal.SIGTERM)
    assert driver.stdout.readline() == "one: stopping\n"
    driver.send_signal(signal.SIGTERM)
    assert driver.communicate(timeout=5)[0] == "one: killing\n"


def test_a_signal_during_the_start_stops_what_is_started(stack: Stack) -> None:
    driver = stack.drive({"name": "one", "command": python(SLEEPER), "ready": f"tcp://127.0.0.1:{free_port()}"})
    wait_for((stack.run_dir / "one.json").exists)
    process = stack.process_of("one")
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=10)
    assert driver.returncode == 0
    assert is_over(process)


def test_services_end_with_a_killed_supervisor(stack: Stack) -> None:
    driver = stack.drive_until_ready({"name": "one", "command": python(SLEEPER)})
    process = stack.process_of("one")
    wait_for(lambda: process.cmdline()[-1] == SLEEPER)  # it has become the service: the kernel knows what to do
    driver.kill()
    wait_for(lambda: is_over(process))


def test_whatever_a_killed_supervisor_left_is_ended_by_the_next_start(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingestion_pipeline.local_stack.supervisor.LEFTOVER_PATIENCE_SECONDS", 0.5)
    file = stack.folder / "family"
    driver = stack.drive_until_ready({"name": "one", "command": python(FAMILY, file)})
    family = family_in(file)
    driver.kill()
    wait_for(lambda: is_over(family[0]))
    assert [is_over(process) for process in family[1:]] == [False, False], "the test needs leftovers"
    with stack.supervisor(Service("one", python(SLEEPER))):
        assert all(is_over(process) for process in family)
    assert stack.events[0] == "ended 2 processes that an earlier run had left"


@pytest.mark.parametrize(("age_error", "survives"), [(0.0, False), (3600.0, True)], ids=["ours", "a recycled id"])
def test_a_recorded_process_is_ended_only_if_it_was_created_when_the_record_says(
    stack: Stack, *, age_error: float, survives: bool
) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as recorded:
        try:
            stack.run_dir.mkdir()
            created = psutil.Process(recorded.pid).create_time() - age_error
            (stack.run_dir / "one.json").write_text(json.dumps({"pid": recorded.pid, "create_time": created}))
            with stack.supervisor(Service("one", python(SLEEPER))):
                assert (recorded.poll() is None) is survives
        finally:
            recorded.kill()


def test_a_second_supervisor_is_refused_until_the_first_is_gone(stack: Stack) -> None:
    driver = stack.drive_until_ready({"name": "one", "command": python(SLEEPER)})
    process = stack.process_of("one")
    with pytest.raises(StartupError, match=f"Another supervisor is at work in {stack.run_dir}"):
        stack.supervisor(Service("one", python(SLEEPER))).start()
    assert not is_over(process)
    driver.kill()
    driver.wait()
    with stack.supervisor(Service("one", python(SLEEPER))):
        assert stack.process_of("one") != process


def test_logs_are_continued_until_they_are_too_long(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    log = stack.log_dir / "one.log"
    speaker = python("import time; print('hello', flush=True); time.sleep(600)")

    def has_greeted(times: int) -> bool:
        return log.read_text().count("hello") == times

    for runs in (1, 2):
        with stack.supervisor(Service("one", speaker, ready=partial(has_greeted, runs))):
            pass
    monkeypatch.setattr("ingestion_pipeline.local_stack.supervised_child.LOG_MAXIMUM_BYTES", 10)
    with stack.supervisor(Service("one", speaker, ready=partial(has_greeted, 1))):
        pass
    assert (stack.log_dir / "one.log.1").read_text().count("hello") == 2


@pytest.mark.parametrize(
    ("services", "complaint"),
    [
        ([Service("Bad name", ["true"])], "must be of a-z"),
        ([Service("one", ["true"]), Service("one", ["true"])], "Two services are named 'one'"),
        ([Service("one", [])], "has no command"),
        ([Service("one", ["true"], after=("two",)), Service("two", ["true"])], "stand before it"),
        ([Service("one", ["true"], ready="ftp://127.0.0.1")], "can't be asked"),
        ([Service("one", ["true"], ready="tcp://127.0.0.1:nonsense")], "can't be asked"),
    ],
)
def test_a_list_of_services_that_makes_no_sense_is_refused(
    stack: Stack, services: list[Service], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        stack.supervisor(*services)


def test_a_service_can_be_interrupted_though_its_supervisor_ignores_it(tmp_path: Path) -> None:
    show = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    command = [sys.executable, str(DIE_WITH_PARENT), str(os.getpid()), sys.executable, "-c", show]
    background_job = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    assert subprocess.run(background_job, capture_output=True, text=True, check=True).stdout == "True\n"
