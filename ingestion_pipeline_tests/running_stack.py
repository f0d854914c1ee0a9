"""The real thing for tests: `ingest up` as a process on a data folder of its own, and how to talk to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg2
import psycopg2.extras
import requests

from ingestion_pipeline.local_stack.ports import usable_port
from ingestion_pipeline.local_stack.process_sessions import send

Value = TypeVar("Value")
INGEST = [sys.executable, "-m", "ingestion_pipeline.cli"]
SETTLED = {"complete", "failed_parse", "failed_chunking", "failed_embedding", "cancelled"}


def wait_for(condition: Callable[[], Value], what: str, seconds: float = 60.0, poll: float = 0.1) -> Value:
    """The first true value of `condition`; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(poll)


@dataclass
class RunningStack:
    """`ingest up` on `data_dir`; `environment` adds settings. Its ports are its own: stacks start side by side."""

    data_dir: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        ports = {name: str(usable_port("127.0.0.1")) for name in ("INGEST_API_PORT", "INGEST_DAGSTER_PORT")}
        self.environment = {**ports, **self.environment}

    def start(self, seconds: float = 200.0) -> None:
        """Start it and wait until everything is ready."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        (self.data_dir / "stack.json").unlink(missing_ok=True)
        log = (self.data_dir / "up.log").open("ab")
        log_start = log.tell()
        self.process = subprocess.Popen(
            [*INGEST, "up"], env=self.full_environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

        def is_up() -> bool:
            assert self.process is not None
            output = (self.data_dir / "up.log").read_bytes()[log_start:].decode()
            assert self.process.poll() is None, f"`ingest up` ended with {self.process.returncode}:\n{output}"
            return "Try: ingest upload" in output

        wait_for(is_up, "`ingest up` is ready", seconds)

    def stop(self) -> int:
        """Ctrl-C; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def processes(self) -> list[psutil.Process]:
        """Every process that works on the data folder: the supervisor, the services, their runs, PostgreSQL."""
        assert self.process is not None
        found: dict[int, psutil.Process] = {}
        folder = str(self.data_dir)
        for process in psutil.process_iter():
            try:
                if folder in " ".join(process.cmdline()) or process.environ().get("INGEST_DATA_DIR") == folder:
                    found |= {member.pid: member for member in (process, *process.children(recursive=True))}
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # gone meanwhile, and what it had started has the same environment; or another user's
        return list(found.values())

    def kill_everything(self) -> int:
        """SIGKILL to every process at once, PostgreSQL included; returns how many there were."""
        processes = self.processes()
        send(signal.SIGKILL, processes)
        psutil.wait_procs(processes, timeout=10)
        assert self.process is not None
        self.process.wait(10)
        return len(processes)

    @property
    def full_environment(self) -> dict[str, str]:
        """What `ingest` sees: none of the developer's own settings."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("INGEST_")}
        return {**clean, "INGEST_DATA_DIR": str(self.data_dir), **self.environment}

    def ingest(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """A command of the command line, as a user would type it."""
        return subprocess.run(
            [*INGEST, *arguments],
            env=self.full_environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    @property
    def addresses(self) -> dict[str, str]:
        addresses: dict[str, str] = json.loads((self.data_dir / "stack.json").read_text())["addresses"]
        return addresses

    def api(self, method: str, path: str, **options: Any) -> requests.Response:
        """A request to the API with the stack's key."""
        key = (self.data_dir / "keys" / "api_key").read_text()
        headers = {"Authorization": f"Bearer {key}"}
        return requests.request(method, f"{self.addresses['api']}{path}", headers=headers, timeout=60, **options)

    def send_webhook(self, body: bytes, headers: Mapping[str, str]) -> requests.Response:
        """A request to the parser's webhook, without the stack's key."""
        return requests.post(
            f"{self.addresses['api']}/webhooks/llamaparse",
            data=body,
            headers={"Content-Type": "application/json", **headers},
            timeout=60,
        )

    def upload(self, name: str, data: bytes, content_type: str) -> dict[str, Any]:
        """Upload bytes; returns the document."""
        answer = self.api("POST", "/documents", files={"file": (name, data, content_type)})
        assert answer.status_code in (200, 201), answer.text
        document: dict[str, Any] = answer.json()
        return document

    def document(self, document_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.api("GET", f"/documents/{document_id}").json()
        return document

    def settled(self, document_id: str, seconds: float = 90.0) -> dict[str, Any]:
        """The document once nothing more happens to it."""

        def is_settled() -> dict[str, Any] | None:
            document = self.document(document_id)
            return document if document["state"] in SETTLED else None

        return wait_for(is_settled, f"document {document_id} is settled", seconds)

    def script_fault(self, service: str, body: Mapping[str, Any]) -> None:
        """Script a fault at a mock: `llamaparse` or `openai`."""
        root = self.addresses[service].removesuffix("/v1")
        assert requests.post(f"{root}/_control/faults", json=body, timeout=10).status_code == 201

    def calls(self, service: str) -> dict[str, Any]:
        """What a mock counted."""
        root = self.addresses[service].removesuffix("/v1")
        counted: dict[str, Any] = requests.get(f"{root}/_control/calls", timeout=10).json()
        return counted

    def clear_faults(self, service: str) -> None:
        root = self.addresses[service].removesuffix("/v1")
        requests.delete(f"{root}/_control/faults", timeout=10).raise_for_status()

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """A query to the Dagster webserver, as its UI sends them."""
        answer = requests.post(
            f"{self.addresses['dagster ui']}/graphql", json={"query": query, "variables": variables}, timeout=30
        )
        body = answer.json()
        assert "errors" not in body, body["errors"]
        data: dict[str, Any] = body["data"]
        return data

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        """Rows of the database, as its owner sees them."""
        password = (self.data_dir / "postgres" / "password").read_text().strip()
        port = (self.data_dir / "postgres" / "port").read_text().strip()
        connection = psycopg2.connect(
            host="127.0.0.1", port=port, user="ingest_owner", password=password, dbname="postgres"
        )
        try:
            with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                cursor.execute(statement, parameters)
                return [dict(row) for row in cursor.fetchall()]
        finally:
            connection.close()
