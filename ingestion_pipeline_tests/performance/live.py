"""The whole product as a process of its own, `ingest up`, over mocks that cost little; and what its processes use."""

import http.client
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any
from urllib.parse import urlsplit

import psutil

from ingestion_pipeline.cli.client import ApiClient
from ingestion_pipeline.cli.transfer import Transfer
from ingestion_pipeline.local_stack.ports import usable_port
from ingestion_pipeline.local_stack.postgres_processes import find_postmaster
from ingestion_pipeline_tests.performance.processes import cpu_seconds
from ingestion_pipeline_tests.performance.surroundings import Surroundings
from ingestion_pipeline_tests.running_stack import RunningStack

BOUNDARY = "performance"
UPLOADS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Live:
    """The running stack, and its API over connections that are kept."""

    stack: RunningStack
    address: str
    key: str

    def call(self, connection: http.client.HTTPConnection, method: str, path: str, **options: Any) -> dict[str, Any]:
        """One request; its JSON."""
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        connection.request(method, path, headers=headers, **options)
        response = connection.getresponse()
        body = response.read()
        assert response.status < 300, (method, path, response.status, body[:500])
        answer: dict[str, Any] = json.loads(body)
        return answer

    def upload(self, connection: http.client.HTTPConnection, name: str, data: bytes) -> dict[str, Any]:
        """POST /documents; the document."""
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: text/markdown\r\n\r\n"
        )
        body = head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.call(connection, "POST", "/documents", body=body, headers=headers)

    def upload_all(self, files: Sequence[Path]) -> None:
        """Upload files, a few at once."""
        own = local()

        def upload(file: Path) -> None:
            if not hasattr(own, "connection"):
                own.connection = self.connect()
            self.upload(own.connection, file.name, file.read_bytes())

        with ThreadPoolExecutor(UPLOADS_AT_ONCE) as threads:
            list(threads.map(upload, files))

    def upload_by_client(self, files: Sequence[Path]) -> int:
        """What `ingest upload` does with files; returns how many were there already."""
        transfer = Transfer(
            ApiClient(f"http://{self.address}", self.key),
            files,
            concurrency=UPLOADS_AT_ONCE,
            until_settled=True,
            timeout_seconds=None,
            on_bytes=lambda index, sent: None,
            on_change=lambda row: None,
        )
        transfer.run()
        return sum(row.is_complete and row.is_new is False for row in transfer.rows)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.address, timeout=60)

    def count(self) -> dict[str, int]:
        """How many documents are in each state."""
        with closing(self.connect()) as connection:
            counted: dict[str, int] = self.call(connection, "GET", "/documents/summary")["states"]
        return counted

    def cpu_by_service(self) -> dict[str, float]:
        """CPU seconds so far of each service, the processes that it starts included."""
        assert self.stack.process is not None
        supervisor = psutil.Process(self.stack.process.pid)
        own = supervisor.cpu_times()
        used = {"supervisor": own.user + own.system}
        postmaster = find_postmaster((self.stack.data_dir / "postgres" / "cluster").resolve())
        assert postmaster is not None
        used["PostgreSQL server"] = cpu_seconds(postmaster.process.pid)
        for child in supervisor.children():
            if child.pid != postmaster.process.pid:
                log = Path(f"/proc/{child.pid}/fd/1").readlink()  # each service writes a log of its name
                used[log.stem] = cpu_seconds(child.pid)
        return used


@contextmanager
def live(here: Surroundings, name: str) -> Iterator[Live]:
    """`ingest up` on a data folder of its own, until the end of the block."""
    port = usable_port("127.0.0.1")
    environment = {
        "INGEST_API_PORT": str(port),
        "INGEST_DAGSTER_PORT": str(usable_port("127.0.0.1")),
        "INGEST_LLAMA_CLOUD_API_KEY": "llx-mock",
        "INGEST_LLAMA_CLOUD_BASE_URL": here.mocks.llamacloud_url,
        "INGEST_WEBHOOK_URL": f"http://127.0.0.1:{port}/webhooks/llamaparse",
        "INGEST_WEBHOOK_SECRET": "secret-of-the-webhooks",
        "INGEST_OPENAI_API_KEY": "sk-mock",
        "INGEST_OPENAI_BASE_URL": here.mocks.openai_base_url,
    }
    stack = RunningStack(here.folder / name, environment)
    stack.start()
    try:
        key = (stack.data_dir / "keys" / "api_key").read_text()
        yield Live(stack, urlsplit(stack.addresses["api"]).netloc, key)
    finally:
        assert stack.process is not None
        stack.process.terminate()
        stack.process.wait(60)
