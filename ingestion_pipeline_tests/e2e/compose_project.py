"""docker-compose.yml brought up on one machine without containers: its own commands, environments and healthchecks.

Variables come from a test's .env, /app from the Dockerfile's COPY lines. One substitution maps what a container has for
itself (ports, host names, /data) to free ports of this machine and folders of the test.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import yaml
from psycopg2 import sql
from running_stack import wait_for

from ingestion_pipeline.local_stack.embedded_postgres import EmbeddedPostgres
from ingestion_pipeline.local_stack.postgres_settings import installed_programs
from ingestion_pipeline.settings import PROJECT_ROOT

LOOPBACK = "127.0.0.1"
FOREIGN = "postgres"  # the one service of an image that is not ours
READY_SECONDS = 120.0
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


def compose_file() -> dict[str, Any]:
    """The file as YAML reads it: merge keys expanded, variables not yet."""
    document: dict[str, Any] = yaml.safe_load((PROJECT_ROOT / "docker-compose.yml").read_text())
    return document


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """A value with its variables replaced, as compose does it. Raises KeyError for one that has to be set."""
    if isinstance(value, dict):
        return {key: interpolated(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, variables) for each in value]
    return VARIABLE.sub(lambda found: _variable(found, variables), value) if isinstance(value, str) else value


def _variable(found: re.Match[str], variables: Mapping[str, str]) -> str:
    given = variables.get(found["name"], "")
    if not given and found["kind"] == "?":
        raise KeyError(found["name"])
    return given or (found["rest"] or "")


def image_environment() -> dict[str, str]:
    """What the Dockerfile sets for every service."""
    lines = re.findall(r"^ENV (.*)$", (PROJECT_ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return dict(assignment.split("=", 1) for line in lines for assignment in line.split())


def copied_into_image() -> dict[Path, list[str]]:
    """The Dockerfile's COPY lines: folders of the image (absolute, or of /app) and what is put there."""
    result: dict[Path, list[str]] = {}
    text = (PROJECT_ROOT / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?:--chown=\S+ )?(.*)$", text, flags=re.MULTILINE):
        *sources, target = line.split()
        folder = Path("/app") / target if target.endswith("/") else (Path("/app") / target).parent
        result.setdefault(folder, []).extend(sources)
    return result


@dataclass
class ComposeProject:
    """All services of the file, as processes below `folder`."""

    folder: Path
    variables: Mapping[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = interpolated(compose_file(), self.variables)["services"]
        self._postgres = EmbeddedPostgres(self.folder / "postgres", durable=False)
        self._ready: dict[str, Future[None]] = {name: Future() for name in self.services}
        self._ports = _free_ports("9000", "8801", "8802", "8000", "4000", "3000")

    def up(self) -> None:
        """Start every service once its dependencies are as it asks; return when all are started."""
        self._make_image()
        with ThreadPoolExecutor(len(self.services)) as pool:
            for future in [pool.submit(self._bring_up, name) for name in self.services]:
                future.result()

    def down(self) -> set[str]:
        """End all services at once, as a machine that shuts down; those that had to be killed."""
        started = time.monotonic()
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        killed: set[str] = set()
        for name, process in self.processes.items():
            try:
                patience = _seconds(self.services[name]["stop_grace_period"])
                process.wait(max(0.0, started + patience - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed.add(name)
        for left in self.left_over():  # a container takes everything inside of it along
            left.kill()
        self._postgres.stop()
        return killed

    def left_over(self) -> list[psutil.Process]:
        """Processes of the services that still run."""
        return list(self._with_our_home())

    def published(self, service: str) -> str:
        """The address of a service's published port."""
        container_port = self.services[service]["ports"][0].rpartition(":")[2]
        return f"http://{LOOPBACK}:{self._ports[container_port]}"

    def _bring_up(self, name: str) -> None:
        service = self.services[name]
        try:
            for dependency in service.get("depends_on", {}):
                self._ready[dependency].result(timeout=2 * READY_SECONDS)
            if name == FOREIGN:
                self._start_postgres(service["environment"])
            else:
                self._start(name, service)
            if any(name in each.get("depends_on", {}) for each in self.services.values()):
                wait_for(self._condition(name, service), f"{name} is ready", READY_SECONDS, poll=0.5)
            self._ready[name].set_result(None)
        except BaseException as error:
            self._ready[name].set_exception(error)
            raise

    def _start(self, name: str, service: Mapping[str, Any]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [self._mapped(word, name) for word in service["command"]],
                env=self._environment(name),
                cwd=self.folder / "app",
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _condition(self, name: str, service: Mapping[str, Any]) -> Callable[[], bool]:
        """What others wait for: the service's own healthcheck, or, without one, that it ended well."""

        def is_ready() -> bool:
            status = self.processes[name].poll() if name in self.processes else None
            log = self.folder / f"{name}.log"
            assert status in ((None,) if "healthcheck" in service else (None, 0)), (
                f"{name} ended with {status}:\n{log.read_text()[-3000:]}"
            )
            return self.is_healthy(name) if "healthcheck" in service else status == 0

        return is_ready

    def is_healthy(self, name: str) -> bool:
        """Whether its healthcheck, run once, says so."""
        check = self.services[name]["healthcheck"]
        marker, *command = check["test"]
        assert marker == "CMD"
        try:
            return not subprocess.run(
                [self._mapped(word, name) for word in command],
                env=self._environment(name),
                cwd=self.folder / "app",
                capture_output=True,
                timeout=_seconds(check["timeout"]),
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return False

    def _environment(self, name: str) -> dict[str, str]:
        """The image's environment, the service's own, and nothing of this machine but where programs are."""
        system = {"PATH": os.environ["PATH"], "HOME": str(self.folder / "home")}
        if name == FOREIGN:
            address = {"PGHOST": LOOPBACK, "PGPORT": self._ports["5432"]}
            return {
                **system,
                "PATH": f"{installed_programs()}:{system['PATH']}",
                **{k: str(v) for k, v in address.items()},
            }
        image = {key: value.replace("$PATH", system["PATH"]) for key, value in image_environment().items()}
        own = {key: str(value) for key, value in self.services[name].get("environment", {}).items()}
        hosts = {key: LOOPBACK if value in self.services else value for key, value in own.items()}
        mapped = {key: self._mapped(value, name) for key, value in {**image, **hosts}.items()}
        # The project is installed from its own folder here, and from /app in the image.
        return {**system, **mapped, "PYTHONPATH": str(self.folder / "app")}

    def _mapped(self, text: str, name: str) -> str:
        """A word of a command, or a variable, of a container as it has to be here."""
        if text == "0.0.0.0":
            return LOOPBACK
        if text in self._ports:
            return str(self._ports[text])
        hosts, ports = "|".join([*self.services, re.escape(LOOPBACK)]), "|".join(self._ports)
        text = re.sub(
            rf"(?<=[@/'])({hosts})(:|', )({ports})(?!\d)",
            lambda found: f"{LOOPBACK}{found[2]}{self._ports[found[3]]}",
            text,
        )
        text = text.replace("/app/.venv/bin", str(Path(sys.executable).parent))
        [volume] = [each.split(":")[0] for each in self.services[name].get("volumes", [])] or [f"{name}-data"]
        for inside, outside in {"/app": "app", "/data": volume, "/home/ingest": "home"}.items():
            text = re.sub(rf"^{inside}(?=/|$)", str(self.folder / outside), text)
        return text

    def _start_postgres(self, environment: Mapping[str, str]) -> None:
        """The project's own PostgreSQL, with the superuser, the password and the database of the image's variables."""
        server = self._postgres.start()
        self._ports["5432"] = server.port
        connection = psycopg2.connect(server.url())
        connection.autocommit = True
        with connection.cursor() as cursor:
            password = sql.Literal(environment["POSTGRES_PASSWORD"])
            cursor.execute(sql.SQL("create role postgres superuser login password {}").format(password))
            cursor.execute(
                sql.SQL("create database {} owner postgres").format(sql.Identifier(environment["POSTGRES_DB"]))
            )
        connection.close()

    def _make_image(self) -> None:
        for folder, sources in copied_into_image().items():
            target = Path(self._mapped(str(folder), "api"))
            target.mkdir(parents=True, exist_ok=True)
            for source in sources:
                path = PROJECT_ROOT / source
                if path.is_dir():
                    shutil.copytree(path, target / source)  # with the bytecode, which the image compiles
                else:
                    shutil.copy(path, target)
        for service in self.services:
            for volume in self.services[service].get("volumes", []):
                (self.folder / volume.split(":")[0]).mkdir(exist_ok=True)

    def _with_our_home(self) -> Iterator[psutil.Process]:
        home = str(self.folder / "home")
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == home and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue


def _free_ports(*names: str) -> dict[str, int]:
    """A port for each, all held until all are known, so that no two are the same."""
    with ExitStack() as stack:
        probes = {name: stack.enter_context(socket.socket()) for name in names}
        for probe in probes.values():
            probe.bind((LOOPBACK, 0))
        return {name: probe.getsockname()[1] for name, probe in probes.items()}


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))
