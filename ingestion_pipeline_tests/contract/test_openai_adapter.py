"""The OpenAI adapter against a real HTTP server that speaks the vendor's contract, with scripted faults."""

import binascii
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpcore2
import numpy as np
import openai
import pytest
from structlog.contextvars import bound_contextvars

from ingestion_pipeline.adapters.openai_embedder import READ_BYTES, OpenAIEmbedder, read_embeddings
from ingestion_pipeline.errors import (
    ConfigurationError,
    IngestionError,
    RequestRejectedError,
    VendorRejectedError,
    VendorUnavailableError,
)
from mock_services.process import MockServices, start_mock_services

MODEL, DIMENSIONS = "text-embedding-3-small", 1536
KEY = "sk-a-secret-that-no-message-shows"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    with start_mock_services(tmp_path_factory.mktemp("mock"), vectors="instant") as services:
        yield services


@pytest.fixture
def services(running: MockServices) -> MockServices:
    running.control("openai", "POST", "reset")
    return running


def embedder_of(services: MockServices, **changes: Any) -> OpenAIEmbedder:
    given: dict[str, Any] = {
        "api_key": KEY,
        "base_url": services.openai_base_url,
        "model": MODEL,
        "dimensions": DIMENSIONS,
    }
    return OpenAIEmbedder(**given | {"timeout_seconds": 10.0} | changes)


@pytest.fixture
def embedder(services: MockServices) -> Iterator[OpenAIEmbedder]:
    embedder = embedder_of(services)
    yield embedder
    embedder.close()


def calls(services: MockServices) -> int:
    return int(services.control("openai", "GET", "calls")["calls"])


def test_vectors_are_float32_in_the_order_of_the_texts_with_the_billed_tokens(
    embedder: OpenAIEmbedder, services: MockServices
) -> None:
    texts = ["one text", "another text", "a third one"]
    embeddings = embedder.embed(texts)
    assert embeddings.vectors.shape == (3, DIMENSIONS)
    assert embeddings.vectors.dtype == np.float32
    sdk = openai.OpenAI(api_key=KEY, base_url=services.openai_base_url, max_retries=0)
    expected = sdk.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    assert np.allclose(embeddings.vectors, [item.embedding for item in expected.data], atol=1e-6)
    assert embeddings.tokens == expected.usage.total_tokens


def test_the_model_and_the_dimensions_asked_for_are_those_of_the_settings(services: MockServices) -> None:
    embedder = embedder_of(services, model="text-embedding-3-large", dimensions=256)
    assert (embedder.model, embedder.dimensions) == ("text-embedding-3-large", 256)
    assert embedder.embed(["a text"]).vectors.shape == (1, 256)


def test_no_texts_cost_no_request(embedder: OpenAIEmbedder, services: MockServices) -> None:
    embeddings = embedder.embed([])
    assert embeddings.vectors.shape == (0, DIMENSIONS)
    assert embeddings.tokens == 0
    assert calls(services) == 0


def test_threads_share_one_embedder_and_each_gets_its_own_vectors(embedder: OpenAIEmbedder) -> None:
    texts = [f"text number {number}" for number in range(40)]
    alone = embedder.embed(texts).vectors
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: embedder.embed([text]).vectors[0], texts))
    assert np.array_equal(alone, np.stack(together))


def connections_to(services: MockServices) -> int:
    """Established TCP connections of the mock's port, seen from the mock."""
    port = f"{int(services.openai_url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[1].endswith(f":{port}") and row[3] == "01")


def test_requests_one_after_another_use_one_connection(services: MockServices) -> None:
    embedder = embedder_of(services)
    before = connections_to(services)
    for number in range(10):
        embedder.embed([f"text {number}"])
    assert 1 <= connections_to(services) <= before + 1  # those of earlier tests may close meanwhile
    embedder.close()


PERMANENT = [
    ({"status": 400}, RequestRejectedError, "request_rejected"),
    ({"status": 400, "code": "context_length_exceeded"}, RequestRejectedError, "context_length_exceeded"),
    ({"status": 401}, VendorRejectedError, "invalid_api_key"),
    ({"status": 403}, VendorRejectedError, "vendor_rejected"),
    ({"status": 404}, VendorRejectedError, "model_not_found"),
    ({"status": 413}, RequestRejectedError, "request_rejected"),
    ({"status": 418}, VendorRejectedError, "vendor_rejected"),
    ({"status": 422}, RequestRejectedError, "request_rejected"),
    ({"status": 429, "code": "insufficient_quota"}, VendorRejectedError, "insufficient_quota"),
]
TRANSIENT = [
    ({"kind": "status", "status": 408}, "vendor_unavailable"),
    ({"kind": "status", "status": 409}, "vendor_unavailable"),
    ({"kind": "status", "status": 429}, "rate_limited"),
    ({"kind": "status", "status": 500}, "vendor_unavailable"),
    ({"kind": "status", "status": 502}, "vendor_unavailable"),
    ({"kind": "status", "status": 503}, "vendor_unavailable"),
    ({"kind": "cut"}, "vendor_unavailable"),
    ({"kind": "truncated_body"}, "vendor_unavailable"),
    ({"kind": "malformed_body"}, "malformed_response"),
    ({"kind": "wrong_count"}, "malformed_response"),
    ({"kind": "wrong_count", "count": 0}, "malformed_response"),
    ({"kind": "wrong_count", "count": 9}, "malformed_response"),
    ({"kind": "wrong_dimension"}, "malformed_response"),
    ({"kind": "nan_vectors"}, "malformed_response"),
]


@pytest.mark.parametrize(("fault", "kind", "code"), PERMANENT, ids=str)
def test_a_refusal_is_permanent_and_costs_one_request(
    embedder: OpenAIEmbedder, services: MockServices, fault: dict[str, Any], kind: type[IngestionError], code: str
) -> None:
    services.script("openai", "status", times=None, **fault)
    with pytest.raises(kind) as caught:
        embedder.embed(["a text"])
    assert (type(caught.value), caught.value.code, caught.value.transient) == (kind, code, False)
    assert calls(services) == 1


@pytest.mark.parametrize(("fault", "code"), TRANSIENT, ids=str)
def test_a_failure_of_the_vendor_is_transient_costs_one_request_and_the_next_one_works(
    embedder: OpenAIEmbedder, services: MockServices, fault: dict[str, Any], code: str
) -> None:
    services.script("openai", times=1, **fault)
    with pytest.raises(VendorUnavailableError) as caught:
        embedder.embed(["a text", "another"])
    assert (caught.value.code, caught.value.transient, caught.value.retry_after_seconds) == (code, True, None)
    assert calls(services) == 1
    assert embedder.embed(["a text", "another"]).vectors.shape == (2, DIMENSIONS)


def test_a_vendor_that_does_not_answer_is_given_up_after_the_timeout(services: MockServices) -> None:
    services.script("openai", "timeout")
    embedder = embedder_of(services, timeout_seconds=0.3)
    started = time.monotonic()
    with pytest.raises(VendorUnavailableError, match="in time") as caught:
        embedder.embed(["a text"])
    assert time.monotonic() - started < 3
    assert caught.value.code == "vendor_unavailable"


def test_a_vendor_that_is_not_there_is_unavailable(services: MockServices) -> None:
    with pytest.raises(VendorUnavailableError, match="can't be reached"):
        embedder_of(services, base_url="http://127.0.0.1:9/v1").embed(["a text"])


@pytest.mark.parametrize("status", [429, 503])
def test_the_vendors_own_waiting_time_is_passed_on(
    embedder: OpenAIEmbedder, services: MockServices, status: int
) -> None:
    services.script("openai", "status", status=status, retry_after=7.5)
    with pytest.raises(VendorUnavailableError) as caught:
        embedder.embed(["a text"])
    assert caught.value.retry_after_seconds == 7.5


def test_what_the_vendor_refuses_by_itself_is_classified_too(services: MockServices) -> None:
    with pytest.raises(VendorRejectedError) as caught:
        embedder_of(services, model="no-such-model").embed(["a text"])
    assert caught.value.code == "model_not_found"
    assert "no-such-model" in caught.value.message
    with pytest.raises(RequestRejectedError, match="cannot be empty") as rejected:
        embedder_of(services).embed(["a text", ""])
    assert rejected.value.code == "request_rejected"
    with pytest.raises(RequestRejectedError) as too_many:
        embedder_of(services).embed(["a text"] * 2049)
    assert too_many.value.code == "array_above_max_length"


def test_the_vendor_is_told_the_id_that_a_call_has_in_the_ledger() -> None:
    told: list[str | None] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.headers["X-Client-Request-Id"])
            self.send_error(503)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        embedder = OpenAIEmbedder(KEY, f"http://127.0.0.1:{server.server_port}/v1", MODEL, DIMENSIONS)
        for known in ({"call_id": "the id"}, {}):
            with bound_contextvars(**known), pytest.raises(VendorUnavailableError):
                embedder.embed(["text"])
        embedder.close()
        server.shutdown()
    assert told == ["the id", None]


def test_no_message_shows_the_key(services: MockServices) -> None:
    services.script("openai", "status", status=400, message=f"the key {KEY} is\nodd")
    with pytest.raises(RequestRejectedError, match="the key \\*\\*\\* is odd"):
        embedder_of(services).embed(["a text"])
    services.script("openai", "status", status=401, message=f"Incorrect API key provided: {KEY[:9]}***")
    with pytest.raises(VendorRejectedError) as caught:
        embedder_of(services).embed(["a text"])
    assert KEY[:9] not in str(caught.value)


@pytest.mark.parametrize("base_url", ["", "127.0.0.1:80", "ftp://host", "https://user:password@host/v1"])
def test_a_base_url_that_no_request_can_be_made_with_is_a_wrong_setting(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="base URL of OpenAI") as caught:
        OpenAIEmbedder(KEY, base_url, MODEL, DIMENSIONS, 1.0)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "sk-with space", "sk-line\nbreak", "sk-ä"])
def test_a_key_that_no_header_can_carry_is_a_wrong_setting(key: str) -> None:
    with pytest.raises(ConfigurationError, match="API key of OpenAI") as caught:
        OpenAIEmbedder(key, "https://host/v1", MODEL, DIMENSIONS, 1.0)
    assert not key or key not in str(caught.value)


def answer(*embeddings: Any, indices: tuple[Any, ...] | None = None, tokens: Any = 5) -> bytes:
    numbers = range(len(embeddings)) if indices is None else indices
    data = [{"index": index, "embedding": value} for index, value in zip(numbers, embeddings, strict=True)]
    return json.dumps({"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}).encode()


def encoded(*numbers: float) -> str:
    return binascii.b2a_base64(np.array(numbers, "<f4").tobytes(), newline=False).decode()


def test_vectors_are_put_in_the_order_of_their_index() -> None:
    read = read_embeddings(answer(encoded(1, 2), encoded(3, 4), indices=(1, 0)), 2, 2)
    assert read.vectors.tolist() == [[3, 4], [1, 2]]
    assert read.tokens == 5


def test_lists_of_numbers_are_read_as_well() -> None:
    assert read_embeddings(answer([0.5, 1], [2, -3]), 2, 2).vectors.tolist() == [[0.5, 1], [2, -3]]


MALFORMED = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"data": null, "usage": {"total_tokens": 1}}',
    b'{"data": [1, 2], "usage": {"total_tokens": 1}}',
    answer(encoded(1, 2)),
    answer(encoded(1, 2), encoded(1, 2), indices=(0, 0)),
    answer(encoded(1, 2), encoded(1, 2), indices=(0, 2)),
    answer(encoded(1, 2), encoded(1, 2), indices=(0, True)),
    answer(encoded(1, 2), encoded(1, 2), indices=(0, "1")),
    answer(encoded(1, 2), encoded(1, 2, 3)),
    answer(encoded(1, 2), encoded(1)),
    answer(encoded(1, 2), "not base64"),
    answer(encoded(1, 2), "AAAAA==="),
    answer(encoded(1, 2), encoded(1, math.inf)),
    answer(encoded(1, 2), [1, None]),
    answer(encoded(1, 2), [1, "x"]),
    answer(encoded(1, 2), [[1, 2]]),
    answer(encoded(1, 2), None),
    answer(encoded(1, 2), encoded(1, 2), tokens=None),
    answer(encoded(1, 2), encoded(1, 2), tokens=-1),
    answer(encoded(1, 2), encoded(1, 2), tokens=True),
]


@pytest.mark.parametrize("body", MALFORMED)
def test_an_answer_that_is_not_what_was_asked_for_is_malformed(body: bytes) -> None:
    with pytest.raises(VendorUnavailableError) as caught:
        read_embeddings(body, 2, 2)
    assert caught.value.code == "malformed_response"


def test_importing_the_adapter_does_not_import_the_sdk() -> None:
    code = "import sys, ingestion_pipeline.adapters.openai_embedder; print('openai' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "False\n"


class RecordingStream(httpcore2.MockStream):
    """A connection that notes how much it is asked for at a time."""

    asked: ClassVar[list[int]] = []

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.asked.append(max_bytes)
        return super().read(max_bytes, timeout)


class RecordingBackend(httpcore2.MockBackend):
    def connect_tcp(self, *_: Any, **__: Any) -> RecordingStream:
        return RecordingStream([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"])


def test_connections_read_large_answers_in_few_steps(embedder: OpenAIEmbedder) -> None:
    with httpcore2.ConnectionPool(network_backend=RecordingBackend([])) as pool:
        assert pool.request("GET", "http://nobody.example/").content == b"ok"
    assert set(RecordingStream.asked) == {READ_BYTES}
