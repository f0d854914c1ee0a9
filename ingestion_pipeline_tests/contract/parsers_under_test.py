"""What the suites of the LlamaCloud adapter share: a parser, requests, a server, waiting for a job."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

from ingestion_pipeline.adapters.llamacloud import LlamaCloudParser
from ingestion_pipeline.domain import ParseJob
from ingestion_pipeline.ports import ParseRequest
from mock_services.process import MockServices

KEY, SECRET = "llx-a-secret-that-no-message-shows", "a-signing-secret-of-ours"
TEXT = "# A contract\n\nBetween one party and another.\n"


class Quiet:
    """Of a handler of requests: it says nothing of them."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name of the standard library
        pass


class LoopbackServer(ThreadingHTTPServer):
    """On a free port of this machine, in threads that do not outlive the tests."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serves within the block, and is closed behind it."""
        with self:
            thread = threading.Thread(target=self.serve_forever)
            thread.start()
            yield
            self.shutdown()
            thread.join()


def parser_of(services: MockServices, **changes: Any) -> LlamaCloudParser:
    given: dict[str, Any] = {"api_key": KEY, "base_url": services.llamacloud_url, "webhook_signing_secret": SECRET}
    given |= {"webhook_url": "http://127.0.0.1:9/webhooks/llamaparse", "timeout_seconds": 10.0}
    return LlamaCloudParser(**given | changes)


def request_for(filename: str = "contract.md", text: str = TEXT, **changes: Any) -> ParseRequest:
    parts = iter([text.encode()[start : start + 7] for start in range(0, len(text), 7)])
    given: dict[str, Any] = {"document_id": uuid4(), "correlation_id": uuid4(), "attempt": 1, "filename": filename}
    return ParseRequest(**given | {"content_type": "text/markdown", "parts": parts} | changes)


def finished(parser: LlamaCloudParser, job_id: str, seconds: float = 30.0) -> ParseJob:
    deadline = time.monotonic() + seconds
    while (job := parser.status(job_id)).outcome is None:
        assert time.monotonic() < deadline, "the job does not end"
        time.sleep(0.02)
    return job


def calls(services: MockServices) -> dict[str, int]:
    operations = services.control("llamacloud", "GET", "calls")["operations"]
    return {name: counted["calls"] for name, counted in operations.items()}
