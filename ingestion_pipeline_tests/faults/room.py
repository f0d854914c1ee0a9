"""Where faults happen: a durable PostgreSQL server and the mocks for many scenes, and for each scene a database, the
HTTP API and workers as processes of their own, and clients that do not give up.
"""

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2
import requests

from ingestion_pipeline.domain import SETTLED, document_id_for, sha256_of
from ingestion_pipeline.local_stack.embedded_postgres import EmbeddedPostgres
from ingestion_pipeline_tests.conftest import DatabaseUrls, PostgresServer
from ingestion_pipeline_tests.faults.journal import rounds_of
from ingestion_pipeline_tests.faults.processes import Forked, Nursery, lasting_port
from ingestion_pipeline_tests.faults.strikes import Strike
from ingestion_pipeline_tests.orchestration.pipeline_under_test import document_text
from ingestion_pipeline_tests.running_api import KEY, OWNER, WEBHOOK_SECRET, wait_until
from mock_services.process import MockServices, Service, start_mock_services

DOCUMENTS = 50
BATCH_DOCUMENTS = 25
WORKERS = 2
CLIENTS = 8
SETTLE_SECONDS = 90.0
VENDOR_SECONDS = 10.0
POLL_SECONDS = 1.0
LOOK_SECONDS = 0.05


class Room:
    """Made by `open_room`."""

    def __init__(self, folder: Path, postgres: EmbeddedPostgres, mocks: MockServices, nursery: Nursery) -> None:
        self.folder = folder
        self.postgres = postgres
        self.mocks = mocks
        self.nursery = nursery
        self.server = PostgresServer(postgres.start().url())
        self._scenes = 0

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own folder, by which its processes are known."""
        return (self.folder / "postgres" / "cluster").resolve()

    @contextmanager
    def scene(self, **settings: Any) -> Iterator["Scene"]:
        """An empty database, a folder of objects, mocks that were reset, the API; `settings` are a worker's."""
        self._scenes += 1
        folder = self.folder / f"scene-{self._scenes}"
        folder.mkdir()
        services: tuple[Service, ...] = ("llamacloud", "openai")
        for service in services:
            self.mocks.control(service, "POST", "reset", {"state": True})
        urls = self.server.create_database()
        scene = Scene(self, folder, urls, dict(settings))
        try:
            scene.start_api()
            yield scene
        finally:
            scene.close()
            self.postgres.start()
            self.server.drop_database(urls.name)
            shutil.rmtree(folder)


@contextmanager
def open_room() -> Iterator[Room]:
    """Start what scenes share, in a folder of its own, and end it."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="ingest-faults-"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o711)  # the server's account passes through
        postgres = EmbeddedPostgres(folder / "postgres")
        stack.callback(postgres.stop)
        mocks = stack.enter_context(
            start_mock_services(folder / "mocks", vectors="instant", webhook_retry_seconds=[0.1, 0.2])
        )
        nursery = stack.enter_context(Nursery(folder / "processes.log"))
        yield Room(folder, postgres, mocks, nursery)


@dataclass
class Scene:
    """One fault and the documents that it happens to.

    `uploaded` has what clients were told is taken. `fault_ended` is when the fault was over, by the monotonic clock.
    `afterwards` is what happens once all documents are settled, and before anybody judges.
    """

    room: Room
    folder: Path
    urls: DatabaseUrls
    changes: dict[str, Any]
    uploaded: dict[UUID, str] = field(default_factory=dict)
    fault_ended: float = 0.0
    workers: list[Forked] = field(default_factory=list)
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    api: Forked | None = None
    resources: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self._connection: psycopg2.extensions.connection | None = None
        self.port = lasting_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.journal = self.folder / "journal"
        self.journal.touch()
        self.objects = self.folder / "objects"

    @property
    def mocks(self) -> MockServices:
        return self.room.mocks

    @property
    def settings(self) -> dict[str, Any]:
        """Those of all processes: the defaults, but for where everything is, and quicker."""
        return {
            "worker_database_url": self.urls.worker,
            "api_database_url": self.urls.api,
            "api_key": KEY,
            "api_owner_id": str(OWNER),
            "api_port": self.port,
            "object_store_dir": str(self.objects),
            "llama_cloud_api_key": "llx-mock",
            "llama_cloud_base_url": self.mocks.llamacloud_url,
            "webhook_url": f"{self.url}/webhooks/llamaparse",
            "webhook_secret": WEBHOOK_SECRET,
            "openai_api_key": "sk-mock",
            "openai_base_url": self.mocks.openai_base_url,
            "vendor_timeout_seconds": VENDOR_SECONDS,
            "parse_poll_seconds": POLL_SECONDS,
            "breaker_open_seconds": 0.3,
            "batch_documents": BATCH_DOCUMENTS,
            **self.changes,
        }

    # processes

    def start_api(self, strike: Strike | None = None, **options: Any) -> Forked:
        """Serve, and return once requests are answered."""
        self.api = self.room.nursery.fork("api", self.settings, strike, cluster=str(self.room.cluster), **options)
        wait_until(self._api_answers, "the API answers")
        return self.api

    def restart_api(self, strike: Strike | None = None, **options: Any) -> Forked:
        """Another API in the place of the one that is."""
        assert self.api is not None
        self.api.kill()
        return self.start_api(strike, **options)

    def start_worker(self, strike: Strike | None = None, **options: Any) -> Forked:
        """One more worker."""
        worker = self.room.nursery.fork(
            "worker", self.settings, strike, journal=str(self.journal), cluster=str(self.room.cluster), **options
        )
        self.workers.append(worker)
        return worker

    def start_workers(self, number: int = WORKERS, **options: Any) -> None:
        """As many as there usually are."""
        for _ in range(number):
            self.start_worker(**options)

    def restart_postgres(self) -> None:
        """Start the server after it was killed; on its port of before."""
        self.room.postgres.start()

    def close(self) -> None:
        """Kill all processes of the scene."""
        for process in [*self.workers, *([self.api] if self.api else [])]:
            process.kill()
        self.resources.close()
        if self._connection is not None:
            self._connection.close()

    def _api_answers(self) -> bool:
        assert self.api is not None
        assert self.api.is_alive(), f"the API ended: {(self.room.folder / 'processes.log').read_text()[-3000:]}"
        with suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/healthz", timeout=10).status_code < 600
        return False

    # clients

    def upload(self, texts: Iterable[str], *, clients: int = CLIENTS) -> None:
        """Upload each text as a Markdown file; returns when all are taken."""
        with ThreadPoolExecutor(clients, thread_name_prefix="client") as pool:
            for document_id, text in pool.map(self.upload_one, texts):
                self.uploaded[document_id] = text

    def upload_one(self, text: str) -> tuple[UUID, str]:
        """As a client that tries again until it is told that the document is taken; returns its id."""

        def is_taken() -> bool:
            with suppress(requests.RequestException):  # an answer that breaks off in the middle, too
                response = self.post(text)
                assert response.status_code in (200, 201, 202, 503), response.text
                return response.status_code < 300
            return False

        wait_until(is_taken, "an upload is taken", SETTLE_SECONDS)
        return document_id_for(OWNER, sha256_of(text)), text

    def post(self, text: str) -> requests.Response:
        """One attempt of an upload."""
        return requests.post(
            f"{self.url}/documents",
            headers={"Authorization": f"Bearer {KEY}"},
            files={"file": ("notes.md", text.encode(), "text/markdown")},
            timeout=20,
        )

    # what is to be seen

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of the scene's database, as its owner sees them. psycopg2.Error while PostgreSQL is away."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg2.connect(self.urls.owner)
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def forget(self, document_id: UUID) -> None:
        """Lose a document, as nothing in the product can."""
        self.change(
            "delete from upload_pipeline.documents where document_id = :id",
            "delete from upload_pipeline.upload_jobs where document_id = :id",
            document_id=document_id,
        )

    def change(self, *statements: str, document_id: UUID) -> None:
        """Change rows past triggers and foreign keys; `:id` is a document's."""
        with closing(psycopg2.connect(self.urls.owner)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("set local session_replication_role = replica")
            for statement in statements:
                cursor.execute(statement.replace(":id", f"'{document_id}'"))

    def states(self) -> list[tuple[str, int]]:
        """How many documents are in which state; settled ones that a run still holds count as held."""
        return self.rows(
            "select case when claimed_by is null then state else state || ' (held)' end, count(*)"
            " from upload_pipeline.upload_jobs group by 1"
        )

    def is_settled(self) -> bool:
        """Whether nothing is left to be done. False also while PostgreSQL is away."""
        settled = {state.value for state in SETTLED}
        with suppress(psycopg2.OperationalError, psycopg2.InterfaceError):
            states = self.states()
            return sum(count for _, count in states) >= len(self.uploaded) and {state for state, _ in states} <= settled
        return False

    def wait_until_settled(self, seconds: float = SETTLE_SECONDS) -> float:
        """Wait until all are; returns how long that took from the end of the fault on."""
        deadline = time.monotonic() + seconds
        while not self.is_settled():
            if time.monotonic() > deadline:
                log = (self.room.folder / "processes.log").read_text()[-3000:]
                raise AssertionError(f"not settled within {seconds:g} s: {self.states()}; the processes wrote:\n{log}")
            time.sleep(LOOK_SECONDS)
        return time.monotonic() - self.fault_ended

    def end_fault(self) -> None:
        """The fault is over now."""
        self.fault_ended = time.monotonic()

    def struck(self, service: Service) -> int:
        """How often scripted faults have happened."""
        return sum(fault["struck"] for fault in self.mocks.control(service, "GET", "faults")["faults"])

    def looks(self, worker: Forked) -> int:
        """How often a worker came to the end of a round."""
        rounds = rounds_of(self.journal, worker.process_id)
        return rounds.stat().st_size if rounds.exists() else 0

    def let_go_on(self, worker: Forked) -> None:
        """Let a worker that stands go on, and wait until it has come to the end of what it was doing."""
        before = self.looks(worker)
        worker.send(signal.SIGCONT)
        wait_until(lambda: self.looks(worker) > before + 1, "a worker that stood has come to the end of its work", 60)


def texts(name: str, number: int = DOCUMENTS) -> list[str]:
    """Documents of a few chunks, of which none is another's."""
    return [document_text(f"{name} {position}", paragraphs=60) for position in range(number)]
