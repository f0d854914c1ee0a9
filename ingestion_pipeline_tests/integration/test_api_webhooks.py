"""The parser's webhooks: verified on the raw bytes, taken once and applied; anything else changes nothing."""

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from uuid import UUID

import pytest
from conftest import DatabaseUrls
from document_journey import Journey
from running_api import WEBHOOK_SECRET, WEBHOOK_WINDOW_SECONDS, RunningApi, execute, rows

JOB = "pjb-1"


@pytest.fixture
def waiting(api: RunningApi, database_urls: DatabaseUrls) -> Iterator[str]:
    """The path of a document that waits for the parse job JOB."""
    document_id = api.upload(b"# mine").json()["document_id"]
    with closing(Journey(database_urls.worker, UUID(document_id))) as journey:
        journey.submit(JOB)
        yield f"/documents/{document_id}"


def event(event_type: str = "parse.success", event_id: str = "e1", job_id: str = JOB, age: float = 0.0) -> bytes:
    data = {"id": job_id, "job_id": job_id}
    return json.dumps(
        {"event_id": event_id, "event_type": event_type, "timestamp": time.time() - age, "data": data}
    ).encode()


def signature(body: bytes, secret: str = WEBHOOK_SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def deliver(api: RunningApi, body: bytes, signed: str | None = None) -> Any:
    return api.request(
        "POST",
        "/webhooks/llamaparse",
        key=None,
        data=body,
        headers={"LC-Signature": signature(body) if signed is None else signed, "Content-Type": "application/json"},
    )


def deliveries(database_urls: DatabaseUrls) -> int:
    return int(rows(database_urls.owner, "select count(*) from upload_pipeline.webhook_deliveries")[0][0])


def test_a_signed_event_moves_its_document_on(api: RunningApi, database_urls: DatabaseUrls, waiting: str) -> None:
    response = deliver(api, event())

    assert (response.status_code, response.content) == (204, b"")
    document = api.get(waiting)
    assert document["state"] == "parsed"
    assert document["history"][-1]["actor"] == "webhook:llamaparse"
    assert deliveries(database_urls) == 1


def test_an_event_that_comes_again_changes_nothing_and_is_a_204_too(
    api: RunningApi, database_urls: DatabaseUrls, waiting: str
) -> None:
    body = event()
    with ThreadPoolExecutor(10) as threads:
        statuses = {response.status_code for response in threads.map(lambda _: deliver(api, body), range(20))}

    assert statuses == {204}
    assert [entry["to_state"] for entry in api.get(waiting)["history"]] == ["uploaded", "parse_queued", "parsed"]
    assert deliveries(database_urls) == 1


def test_a_failed_job_is_noted_for_the_workers(api: RunningApi, database_urls: DatabaseUrls, waiting: str) -> None:
    assert deliver(api, event("parse.error")).status_code == 204

    assert rows(database_urls.owner, "select state, parse_outcome, lane from upload_pipeline.upload_jobs") == [
        ("parse_queued", "error", "process")
    ]


def test_an_event_of_a_job_that_is_not_known_yet_is_kept_for_the_submitter(
    api: RunningApi, database_urls: DatabaseUrls
) -> None:
    document_id = api.upload(b"# mine").json()["document_id"]
    assert deliver(api, event(job_id="pjb-early")).status_code == 204

    with closing(Journey(database_urls.worker, UUID(document_id))) as journey:
        journey.submit("pjb-early")

    assert api.get(f"/documents/{document_id}")["state"] == "parsed"


def test_an_event_of_a_job_that_goes_on_changes_no_state(api: RunningApi, waiting: str) -> None:
    assert deliver(api, event("parse.running")).status_code == 204
    assert api.get(waiting)["state"] == "parse_queued"


@pytest.mark.parametrize("forged", ["", "sha256=", "sha256=" + "0" * 64, "nonsense", "sha256=\u00fc"])
def test_a_forged_event_is_a_401_and_changes_nothing(
    api: RunningApi, database_urls: DatabaseUrls, waiting: str, forged: str
) -> None:
    response = deliver(api, event(), forged)

    assert (response.status_code, response.json()["code"]) == (401, "bad_signature")
    assert api.get(waiting)["state"] == "parse_queued"
    assert deliveries(database_urls) == 0


def test_an_event_without_a_signature_is_a_401(api: RunningApi) -> None:
    response = api.request("POST", "/webhooks/llamaparse", key=None, data=event())

    assert (response.status_code, response.json()["code"]) == (401, "bad_signature")


def test_a_signature_of_another_secret_or_of_other_bytes_is_a_401(api: RunningApi, waiting: str) -> None:
    body = event()

    assert deliver(api, body, signature(body, "another-secret-of-somebody")).status_code == 401
    assert deliver(api, body + b" ", signature(body)).status_code == 401
    assert api.get(waiting)["state"] == "parse_queued"


@pytest.mark.parametrize("age", [WEBHOOK_WINDOW_SECONDS + 30, -WEBHOOK_WINDOW_SECONDS - 30])
def test_an_event_outside_of_the_replay_window_is_a_400(
    api: RunningApi, database_urls: DatabaseUrls, waiting: str, age: float
) -> None:
    response = deliver(api, event(age=age))

    assert (response.status_code, response.json()["code"]) == (400, "stale_event")
    assert deliveries(database_urls) == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"event_id": "e1"}', b"[" * 60_000])
def test_a_signed_event_that_is_malformed_is_a_400(api: RunningApi, database_urls: DatabaseUrls, body: bytes) -> None:
    response = deliver(api, body)

    assert (response.status_code, response.json()["code"]) == (400, "malformed_event")
    assert deliveries(database_urls) == 0


def test_an_event_over_64_kib_is_a_413_whether_it_declares_its_length_or_not(api: RunningApi) -> None:
    body = b" " * (64 * 1024 + 1)
    declared = deliver(api, body)
    undeclared = api.request("POST", "/webhooks/llamaparse", key=None, data=iter([body]))

    assert (declared.status_code, declared.json()["code"]) == (413, "body_too_large")
    assert (undeclared.status_code, undeclared.json()["code"]) == (413, "body_too_large")


def test_if_the_database_is_away_the_sender_is_asked_to_come_back(api: RunningApi, database_urls: DatabaseUrls) -> None:
    execute(database_urls.owner, f"alter database {database_urls.name} connection limit 0")
    response = deliver(api, event())
    execute(database_urls.owner, f"alter database {database_urls.name} connection limit -1")

    assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
    assert "Retry-After" in response.headers
