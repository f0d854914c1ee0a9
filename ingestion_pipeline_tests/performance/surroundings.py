"""What a measurement works on: an embedded PostgreSQL as durable as the product's, mocks that cost little, databases.

Documents are brought to where parsing has ended once, in a database that each measurement then gets a copy of.
"""

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ingestion_pipeline.local_stack.embedded_postgres import EmbeddedPostgres
from ingestion_pipeline.local_stack.postgres_processes import find_postmaster
from ingestion_pipeline.local_stack.stack import dagster_environment
from ingestion_pipeline.settings import Settings
from ingestion_pipeline_tests.conftest import DatabaseUrls, PostgresServer
from ingestion_pipeline_tests.performance import limit
from ingestion_pipeline_tests.performance.processes import cpu_seconds
from ingestion_pipeline_tests.performance.worker import CLAIM_SECONDS
from mock_services.process import MockServices, start_mock_services

NOBODY_LISTENS = "http://127.0.0.1:9/webhooks/llamaparse"  # that parsing has ended is found by asking


@dataclass(frozen=True, slots=True)
class Site:
    """A database and a folder of objects that belong together."""

    urls: DatabaseUrls
    objects: Path


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds of what every measurement shares."""

    postgres: float
    mocks: float

    def since(self, earlier: "Cpu") -> "Cpu":
        return Cpu(self.postgres - earlier.postgres, self.mocks - earlier.mocks)


class Surroundings:
    """Made by `surroundings()`; `folder` is scratch space that goes at its end."""

    def __init__(self, folder: Path, server: PostgresServer, postmaster: int, mocks: MockServices) -> None:
        self.folder = folder
        self.mocks = mocks
        self._server = server
        self._postmaster = postmaster

    def site(self, source: Site | None = None) -> Site:
        """A new, migrated database and an empty folder, or copies of those of `source`, which is not in use."""
        objects = self.folder / f"objects-{secrets.token_hex(4)}"
        if source is None:
            objects.mkdir()
            return Site(self._server.create_database(), objects)
        shutil.copytree(source.objects, objects, copy_function=os.link)  # objects are replaced, never changed
        return Site(self._server.create_database(template=source.urls.name), objects)

    def drop(self, site: Site) -> None:
        self._server.drop_database(site.urls.name)
        shutil.rmtree(site.objects)

    def settings(self, site: Site, **changes: Any) -> Settings:
        """Those of a worker: the defaults, but for where everything is."""
        return Settings(
            _env_file=None,
            **{
                "worker_database_url": SecretStr(site.urls.worker),
                "api_database_url": SecretStr(site.urls.api),
                "object_store_dir": site.objects,
                "llama_cloud_api_key": SecretStr("llx-mock"),
                "llama_cloud_base_url": self.mocks.llamacloud_url,
                "webhook_url": NOBODY_LISTENS,
                "webhook_secret": SecretStr("secret-of-the-webhooks"),
                "openai_api_key": SecretStr("sk-mock"),
                "openai_base_url": self.mocks.openai_base_url,
                "claim_seconds": CLAIM_SECONDS,
                "sensor_wait_seconds": 0.0,
                **changes,
            },
        )

    def dagster(self, site: Site) -> Mapping[str, str]:
        """The environment of a process that runs Dagster on the site's database."""
        return dagster_environment(site.urls.worker, self.folder, 0)

    def limit(self, source: Path | limit.Results, site: Site) -> tuple[limit.Outcome, Cpu]:
        """Run the hand-written limit in a process of its own."""
        with self.process() as run_in_it:
            before = self.cpu()
            outcome: limit.Outcome = run_in_it(limit.run, source, site.urls.owner, self.mocks.openai_base_url)
            return outcome, self.cpu().since(before)

    @contextmanager
    def process(self) -> Iterator[Callable[..., Any]]:
        """A fresh process, which writes to a log; yields a function that calls another in it and returns its result."""
        log = self.folder / "workers.log"
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=_write_to, initargs=(log,)) as pool:
            yield lambda function, *arguments: pool.submit(function, *arguments).result()

    def cpu(self) -> Cpu:
        return Cpu(cpu_seconds(self._postmaster), cpu_seconds(self.mocks.process.pid))

    def forget_calls(self) -> None:
        """Set the mocks' counters to zero."""
        for service in ("llamacloud", "openai"):
            self.mocks.control(service, "POST", "reset", {})  # type: ignore[arg-type]

    def calls(self, service: str) -> int:
        """How many calls a mock has had."""
        return int(self.mocks.control(service, "GET", "calls")["calls"])  # type: ignore[arg-type]

    def texts_embedded(self) -> int:
        return int(self.mocks.control("openai", "GET", "calls")["inputs"])


@contextmanager
def surroundings() -> Iterator[Surroundings]:
    """Start everything in a folder of its own, and end it."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="ingest-performance-"))
        stack.callback(shutil.rmtree, folder)
        postgres = EmbeddedPostgres(folder / "postgres")
        stack.callback(postgres.stop)
        server = PostgresServer(postgres.start().url())
        postmaster = find_postmaster((folder / "postgres" / "cluster").resolve())
        assert postmaster is not None
        mocks = stack.enter_context(
            start_mock_services(
                folder / "mocks",
                vectors="instant",
                estimate_tokens=True,
                webhook_retry_seconds=[],
                requests_per_minute=10**9,
                tokens_per_minute=10**12,
            )
        )
        yield Surroundings(folder, server, postmaster.process.pid, mocks)


def _write_to(log: Path) -> None:
    """Send what this process writes into a file: Dagster tells every event."""
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
