"""The API as a process of its own: what it needs to start, its memory, its limits, its logs, how it ends."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from conftest import DatabaseUrls
from running_api import KEY, WEBHOOK_SECRET, wait_until

from ingestion_pipeline.adapters.object_store import local_object_store
from ingestion_pipeline.api import main
from ingestion_pipeline.errors import IngestionError

COMMAND = [sys.executable, "-m", "ingestion_pipeline.api.main"]
PROJECT = Path(__file__).resolve().parents[2]
UPLOAD_BYTES = 90 << 20
MOST_MORE_BYTES = 32 << 20
NEEDED = (
    "INGEST_API_DATABASE_URL",
    "INGEST_OBJECT_STORE_DIR",
    "INGEST_API_KEY",
    "INGEST_WEBHOOK_SECRET",
    "INGEST_OPENAI_API_KEY",
)
HEADERS = {"Authorization": f"Bearer {KEY}"}


class PatternForm:
    """A form with a PDF of so many bytes, which nobody has to hold, and the PDF's hash once it was read."""

    def __init__(self, size: int) -> None:
        self.sha256 = hashlib.sha256()
        self._size = size
        self._block = b"%PDF-1.7\n" + os.urandom(1 << 16)
        self._head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="large.pdf"\r\n\r\n'
        self._end = b"\r\n--b--\r\n"

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        for start in range(0, self._size, len(self._block)):
            block = self._block[: self._size - start]
            self.sha256.update(block)
            yield block
        yield self._end


class ApiProcess:
    """`python -m ingestion_pipeline.api.main` on a free port, with its output in a file."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._log = log.open("wb")
        self.process = subprocess.Popen(
            COMMAND, env={**environment, "INGEST_API_PORT": str(self.port)}, cwd=PROJECT,
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Return once it answers."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
            except requests.ConnectionError:
                return False

        wait_until(is_ready, "the API is ready", 60)

    def close(self) -> None:
        """End it if it hasn't ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()


@pytest.fixture
def environment(database_urls: DatabaseUrls, tmp_path: Path) -> dict[str, str]:
    """The settings that the API needs."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("INGEST_")}
    return own | {
        "INGEST_API_DATABASE_URL": database_urls.api,
        "INGEST_OBJECT_STORE_DIR": str(tmp_path / "objects"),
        "INGEST_API_KEY": KEY,
        "INGEST_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "INGEST_OPENAI_API_KEY": "sk-of-tests-never-used",
        "INGEST_OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    }


@pytest.fixture
def api_process(environment: dict[str, str], tmp_path: Path) -> Iterator[ApiProcess]:
    """The API, ready."""
    running = ApiProcess(environment, tmp_path / "api.log")
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.close()


@contextmanager
def peak_memory(pid: int) -> Iterator[dict[str, int]]:
    """Resident bytes of a process: before the block and at most during it."""
    process = psutil.Process(pid)
    found = {"before": process.memory_info().rss, "peak": 0}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            found["peak"] = max(found["peak"], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def upload(url: str, size: int) -> tuple[requests.Response, str]:
    form = PatternForm(size)
    headers = {**HEADERS, "Content-Type": "multipart/form-data; boundary=b"}
    response = requests.post(f"{url}/documents", data=form, headers=headers, timeout=120)
    return response, form.sha256.hexdigest()


def test_an_upload_of_90_mib_takes_a_bounded_amount_of_memory(api_process: ApiProcess, tmp_path: Path) -> None:
    upload(api_process.url, 1 << 20)

    with peak_memory(api_process.process.pid) as memory:
        response, sha256 = upload(api_process.url, UPLOAD_BYTES)

    assert response.status_code == 201, response.text
    assert response.json()["sha256"] == sha256
    assert response.json()["size_bytes"] == UPLOAD_BYTES
    more = memory["peak"] - memory["before"]
    assert more < MOST_MORE_BYTES, f"{more / 2**20:.0f} MiB more than before"
    store = local_object_store(tmp_path / "objects")
    assert sorted(stored.size_bytes for stored in store.list("raw")) == [1 << 20, UPLOAD_BYTES]


def test_a_start_that_fails_ends_with_status_1_and_one_message(environment: dict[str, str], tmp_path: Path) -> None:
    del environment["INGEST_API_KEY"]
    running = ApiProcess(environment, tmp_path / "failed.log")
    try:
        status = running.process.wait(60)
    finally:
        running.close()

    assert status == 1
    [line] = running.log.read_text().splitlines()
    assert line.startswith("The API can't start: INGEST_API_KEY is not set")


@pytest.mark.parametrize("missing", NEEDED)
def test_a_missing_setting_is_named_at_the_start(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    del environment[missing]

    assert f"{missing} is not set" in refusal_to_start(environment, monkeypatch)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("INGEST_API_DATABASE_URL", "postgresql://ingest_api:pa55word@127.0.0.1:9/none", "Postgres is not available"),
        ("INGEST_OBJECT_STORE_DIR", "/dev/null/objects", "object store's folder"),
        ("INGEST_API_KEY", "short", "INGEST_API_KEY"),
    ],
)
def test_a_setting_that_will_not_do_is_said_at_the_start_without_secrets(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    message = refusal_to_start(environment | {name: value}, monkeypatch)

    assert words in message
    assert "pa55word" not in message


def test_a_database_without_the_schema_is_said_at_the_start(
    environment: dict[str, str], empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrated = environment["INGEST_API_DATABASE_URL"]
    environment["INGEST_API_DATABASE_URL"] = migrated.rpartition("/")[0] + "/" + empty_database_url.rpartition("/")[2]

    assert "ingest db migrate" in refusal_to_start(environment, monkeypatch)


def test_a_request_under_way_comes_to_its_end_when_the_process_is_told_to_stop(
    api_process: ApiProcess, tmp_path: Path
) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="notes.md"\r\n\r\n# begun'
    end = b" and ended\r\n--b--\r\n"
    with closing(socket.create_connection(("127.0.0.1", api_process.port), timeout=30)) as connection:
        connection.sendall(
            f"POST /documents HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body + end)}\r\n"
            f"Expect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        api_process.process.terminate()
        wait_until(lambda: "Shutting down" in api_process.log.read_text(), "the API shuts down")
        connection.sendall(end)
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 201 ")
    assert api_process.process.wait(30) in (0, -15)
    assert len(list(local_object_store(tmp_path / "objects").list("raw"))) == 1


def test_a_head_over_the_limit_is_refused_and_others_are_served(api_process: ApiProcess) -> None:
    with closing(socket.create_connection(("127.0.0.1", api_process.port), timeout=30)) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: test\r\nX-Long: " + b"x" * 40_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")

    assert requests.get(f"{api_process.url}/healthz", timeout=10).status_code == 200


def test_every_line_of_the_log_is_json_with_the_id_of_its_request_and_without_secrets(api_process: ApiProcess) -> None:
    words = "the words of a user"
    correlation_id = "5e1b9a5e-8d5d-4c36-9a53-2f6b0b0b7a55"
    named = {**HEADERS, "X-Correlation-ID": correlation_id}
    unavailable = requests.get(f"{api_process.url}/search", params={"q": words}, headers=named, timeout=60)
    requests.get(f"{api_process.url}/documents", headers={"Authorization": "Bearer guessed-key"}, timeout=60)
    upload(api_process.url, 1000)

    assert unavailable.status_code == 503  # nobody is where the embedder should be
    text = api_process.log.read_text()
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert {"event", "level", "timestamp"} <= set.intersection(*(set(line) for line in lines))
    mine = [line for line in lines if line.get("correlation_id") == correlation_id]
    assert [(line["event"], line.get("code")) for line in mine] == [
        ("vendor call", None),
        ("request failed", "vendor_unavailable"),
        ("request", "vendor_unavailable"),
    ]
    for secret in (words, KEY, WEBHOOK_SECRET, "guessed-key", "sk-of-tests"):
        assert secret not in text


def refusal_to_start(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """With what message the app is not made; the process that shows it is under test above."""
    for name in [name for name in os.environ if name.startswith("INGEST_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")  # where no .env is
    monkeypatch.setattr(main, "configure_logging", lambda **_: None)  # it would stay for all other tests
    with pytest.raises(IngestionError) as refused:
        main.build_app()
    return refused.value.message
