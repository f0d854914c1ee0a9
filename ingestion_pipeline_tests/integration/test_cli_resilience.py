"""The command line against an API that is away, busy, foreign or only pretended: real HTTP, scripted answers."""

import hashlib
import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from command_line import run_ingest, start_ingest

KEY = "ik-a-key-that-nobody-may-see"
DOCUMENT_ID = "3f0a9c1e-6f0d-5b55-9a3e-1c2d7f6f4b10"


def document(document_id: str, filename: str, state: str, error: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "document_id": document_id,
        "filename": filename,
        "content_type": "text/plain",
        "size_bytes": 5,
        "state": state,
        "state_changed_at": "2026-11-01T10:00:05Z",
        "progress": {"pages": 1, "failed_pages": [], "chunks_total": 3, "chunks_embedded": 3, "tokens": 9},
        "next_attempt_at": None,
        "last_error": error,
        "retry_path": None,
        "usage": {"tokens": 9, "pages": 1, "cost_usd": 0.00375},
        "correlation_id": DOCUMENT_ID,
        "history": [],
    }


class ScriptedApi(ThreadingHTTPServer):
    """Answers by `answer(method, path, body)`: a status, headers and JSON; keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.keys: set[str | None] = set()
        self.answer: Callable[[str, str, bytes], tuple[int, dict[str, str], Any]] = lambda *_: (200, {}, {"states": {}})
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def settings(self) -> dict[str, str]:
        return {"INGEST_API_URL": f"http://127.0.0.1:{self.server_port}", "INGEST_API_KEY": KEY}


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedApi

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path))
        self.server.keys.add(self.headers.get("Authorization"))
        status, headers, answer = self.server.answer(self.command, self.path, body)
        encoded = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(encoded))} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(encoded)

    do_GET = do_POST = _respond  # noqa: N815  names of http.server

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def file_in(folder: Path, name: str = "a.txt") -> Path:
    file = folder / name
    file.write_text("hello")
    return file


@pytest.mark.parametrize("arguments", [("status",), ("search", "a question"), ("demo",)])
def test_without_an_api_the_error_says_how_to_start_one(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run_ingest(*arguments, settings={"INGEST_DATA_DIR": str(tmp_path)}, directory=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error [configuration_error]: ")
    assert "start the stack with `ingest up`" in done.stderr
    assert done.stdout == ""


def test_an_api_that_is_down_is_one_clear_error_without_a_traceback(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = run_ingest(
            *("upload", file_in(tmp_path)), settings={"INGEST_API_URL": url, "INGEST_API_KEY": KEY}, directory=tmp_path
        )
    assert done.returncode == 1
    assert done.stderr == (
        f"error [api_unavailable]: The API at {url} can't be reached: Connection refused. "
        "Start the stack with `ingest up`.\n"
    )


def test_address_and_key_come_from_the_files_of_the_running_stack(tmp_path: Path, api: ScriptedApi) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "api_key").write_text(f"{KEY}\n")
    (tmp_path / "stack.json").write_text(json.dumps({"api_url": api.settings["INGEST_API_URL"], "dagster_url": ""}))
    answer = {"states": {"complete": 4}, "documents": [], "vendors": [], "budgets": []}
    api.answer = lambda *_: (200, {}, answer)
    done = run_ingest("status", settings={"INGEST_DATA_DIR": str(tmp_path)}, directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"complete +4", done.stdout)
    assert api.keys == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("kind", "answer"), [("text/html", "<html>"), ("application/json", {}), ("application/json", [])]
)
def test_something_else_at_the_address_is_not_taken_for_the_api(
    tmp_path: Path, api: ScriptedApi, kind: str, answer: object
) -> None:
    api.answer = lambda *_: (200, {"Content-Type": kind}, answer)
    done = run_ingest("status", settings=api.settings, directory=tmp_path)
    assert done.returncode == 1
    assert "is not the API" in done.stderr


def test_a_busy_api_is_asked_again_after_the_seconds_that_it_names(tmp_path: Path, api: ScriptedApi) -> None:
    refusals = [{"Retry-After": "0"}, {"Retry-After": "0"}]

    def answer(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        if method == "POST" and refusals:
            return 503, refusals.pop(), {"code": "database_unavailable", "detail": "Later."}
        if method == "POST":
            assert b'filename="a.txt"' in body
            assert b"hello" in body
            return 201, {}, document(DOCUMENT_ID, "a.txt", "uploaded")
        return 200, {}, {"states": {}}

    api.answer = answer
    done = run_ingest("upload", "--no-wait", "--json", file_in(tmp_path), settings=api.settings, directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [method for method, _ in api.asked] == ["GET", "GET", "POST", "POST", "POST"]
    assert json.loads(done.stdout)[0]["state"] == "uploaded"


def test_only_what_the_api_does_not_have_is_sent(tmp_path: Path, api: ScriptedApi) -> None:
    known, new = file_in(tmp_path, "known.txt"), tmp_path / "new.txt"
    new.write_text("new")
    sha256 = hashlib.sha256(known.read_bytes()).hexdigest()
    there = document(DOCUMENT_ID, "known.txt", "complete") | {"sha256": sha256}

    def answer(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        if method == "POST":
            assert b'filename="new.txt"' in body
            return 201, {}, document(str(uuid4()), "new.txt", "uploaded")
        return 200, {}, {"states": {}, "documents": [there] if sha256 in path else []}

    api.answer = answer
    done = run_ingest("upload", "--no-wait", "--json", known, new, settings=api.settings, directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [method for method, _ in api.asked].count("POST") == 1
    assert [(row["state"], row["is_new"]) for row in json.loads(done.stdout)] == [
        ("complete", False),
        ("uploaded", True),
    ]


def test_an_api_that_stays_busy_is_given_up_after_six_attempts(tmp_path: Path, api: ScriptedApi) -> None:
    busy = {"code": "database_unavailable", "detail": "The database is not available.", "remedy": "Try again."}
    api.answer = lambda method, *_: (503, {"Retry-After": "0"}, busy) if method == "POST" else (200, {}, {"states": {}})
    done = run_ingest("upload", "--json", file_in(tmp_path), settings=api.settings, directory=tmp_path)
    assert done.returncode == 1
    assert [method for method, _ in api.asked].count("POST") == 6
    (row,) = json.loads(done.stdout)
    assert (row["state"], row["code"]) == ("not sent", "database_unavailable")
    assert row["reason"] == "The database is not available. Try again."


def test_waiting_ends_when_every_document_is_settled_and_failures_make_the_exit_status_1(
    tmp_path: Path, api: ScriptedApi
) -> None:
    states = {"good.txt": ["uploaded", "parsed", "complete"], "bad.txt": ["uploaded", "uploaded", "failed_parse"]}
    error = {"code": "no_text", "message": "No text.", "stage": "parsed", "remedy": "Run OCR."}

    def answer(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        if path == "/documents/summary":
            return 200, {}, {"states": {}}
        name = "good.txt" if b"good.txt" in body or path.endswith("good.txt") else "bad.txt"
        state = states[name].pop(0) if len(states[name]) > 1 else states[name][0]
        return 201 if method == "POST" else 200, {}, document(name, name, state, error if "fail" in state else None)

    api.answer = answer
    files = [file_in(tmp_path, name) for name in states]
    done = run_ingest("upload", *files, settings=api.settings, directory=tmp_path)
    assert done.returncode == 1
    good, bad = (next(line for line in done.stdout.splitlines() if name in line) for name in states)
    assert "complete" in good
    assert "failed_parse" in bad
    assert bad.rstrip().endswith("No text. Run OCR.")
    assert "\x1b" not in done.stdout + done.stderr


def test_a_demo_whose_search_finds_another_document_first_fails(tmp_path: Path, api: ScriptedApi) -> None:
    hit = {
        "document_id": DOCUMENT_ID,
        "filename": "other.txt",
        "score": 0.9,
        "text": "Something else.",
        "heading_path": [],
    }

    def answer(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        if path.startswith("/search"):
            return 200, {}, {"results": [hit | {"pages": {"first": 1, "last": 1}}]}
        if method == "GET":
            return 200, {}, {"states": {}}
        name = re.search(rb'filename="([^"]+)"', body)
        return 201, {}, document(name[1].decode() if name else "", "", "complete")

    api.answer = answer
    done = run_ingest("demo", settings=api.settings, directory=tmp_path)
    assert done.returncode == 1
    assert "WRONG: insurance-plan-summary.pdf has the answer" in done.stdout
    assert "0 of 3 questions" in done.stdout


def test_ctrl_c_ends_a_watch_with_130_and_without_a_traceback(tmp_path: Path, api: ScriptedApi) -> None:
    api.answer = lambda *_: (200, {}, {"states": {"parsed": 3}})
    with start_ingest("status", "--watch", settings=api.settings, directory=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "parsed: 3\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_ctrl_c_ends_an_upload_that_waits_with_130_and_without_a_traceback(tmp_path: Path, api: ScriptedApi) -> None:
    def answer(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        is_summary = path == "/documents/summary"
        return 201, {}, {"states": {}} if is_summary else document(DOCUMENT_ID, "a.txt", "uploaded")

    api.answer = answer
    with start_ingest("upload", file_in(tmp_path), settings=api.settings, directory=tmp_path) as process:
        assert process.stderr is not None
        assert "a.txt: uploaded" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert output == ""


def test_the_key_appears_nowhere(tmp_path: Path, api: ScriptedApi) -> None:
    api.answer = lambda *_: (401, {}, {"code": "not_authenticated", "detail": "The bearer key is not valid."})
    done: subprocess.CompletedProcess[str] = run_ingest("status", settings=api.settings, directory=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error [not_authenticated]: The bearer key is not valid.\n"
    assert KEY not in done.stdout + done.stderr
