"""The HTTP API for tests: the real app on a real socket, in a thread of the test's process."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psycopg2
import requests
import uvicorn

from ingestion_pipeline.adapters.llamacloud_webhook import verify_webhook
from ingestion_pipeline.adapters.object_store import local_object_store
from ingestion_pipeline.adapters.postgres.accounts import PostgresAccounts
from ingestion_pipeline.adapters.postgres.catalogue import PostgresCatalogue
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.api.app import create_app
from ingestion_pipeline.api.authentication import KeyAuthenticator
from ingestion_pipeline.api.server import server_config
from ingestion_pipeline.api.services import ApiServices
from ingestion_pipeline.ports import Embeddings

OWNER = UUID("00000000-0000-4000-8000-00000000000a")
OTHER_OWNER = UUID("00000000-0000-4000-8000-00000000000b")
KEY = "key-of-the-owner-of-tests"
OTHER_KEY = "key-of-the-other-owner-of-tests"
WEBHOOK_SECRET = "secret-of-the-webhooks-of-tests"
WEBHOOK_WINDOW_SECONDS = 300.0
MAX_UPLOAD_BYTES = 1 << 20


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Return once `condition` holds; fail with `what` if that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What a statement returns, as the role of `url`."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def execute(url: str, statement: str) -> None:
    """Run a statement and commit."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)


class WordEmbedder:
    """Vectors of counted words: texts with the same words are near to each other. Implements ports.Embedder."""

    model = "text-embedding-3-small"
    dimensions = 1536

    def embed(self, texts: Sequence[str]) -> Embeddings:
        vectors = np.full((len(texts), self.dimensions), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, int.from_bytes(word.encode()[:8], "big") % self.dimensions] += 1.0
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embeddings(vectors, tokens=sum(len(text.split()) for text in texts))


@dataclass
class RunningApi:
    """The API at `url`, over a database as the role ingest_api and a folder of objects.

    `request` asks as OWNER unless it is given another key; `services` may be changed before `start`.
    """

    database_url: str = field(repr=False)
    folder: Path
    changes: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        """Serve, and return once requests are answered."""
        database = Database(self.database_url, application_name="ingest-api-test")
        catalogue = PostgresCatalogue(database)
        services = {
            "catalogue": catalogue,
            "accounts": PostgresAccounts(database),
            "objects": local_object_store(self.folder),
            "embedder": WordEmbedder(),
            "authenticator": KeyAuthenticator({KEY: OWNER, OTHER_KEY: OTHER_OWNER}),
            "verify_webhook": lambda body, signature: verify_webhook(
                body, signature, WEBHOOK_SECRET, time.time(), WEBHOOK_WINDOW_SECONDS
            ),
            "max_upload_bytes": MAX_UPLOAD_BYTES,
            "close": catalogue.close,
        }
        self.services = ApiServices(**{**services, **self.changes})
        self.app = create_app(self.services)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._server = uvicorn.Server(server_config(self.app, *self.address, grace_seconds=5))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="api")
        self._thread.start()
        wait_until(lambda: self._server.started, "the API serves")

    def stop(self) -> None:
        """End it as SIGTERM does: requests under way come to their end."""
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive(), "the API ends"

    def request(self, method: str, path: str, *, key: str | None = KEY, **options: Any) -> requests.Response:
        """Send one request; `key=None` sends it without authentication."""
        headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **options.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=60, **options)

    def get(self, path: str, **options: Any) -> Any:
        """The JSON of a GET that has to succeed."""
        response = self.request("GET", path, **options)
        assert response.status_code == 200, response.text
        return response.json()

    def upload(
        self, content: bytes | Iterator[bytes], name: str = "notes.md", kind: str = "text/markdown", **options: Any
    ) -> requests.Response:
        """Upload a file."""
        return self.request("POST", "/documents", files={"file": (name, content, kind)}, **options)

    def objects(self) -> list[str]:
        """Keys of all uploaded files."""
        return [stored.key for stored in local_object_store(self.folder).list("raw")]

    def wait_until_idle(self) -> None:
        """Return once no request is under way."""
        wait_until(lambda: not self._server.server_state.tasks, "the API has nothing to do")
