"""Verifying LlamaParse's webhooks: what is accepted, what is refused, under which code."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ingestion_pipeline.adapters.llamacloud import ParseEvent, WebhookRejectedError, verify_webhook
from ingestion_pipeline.adapters.llamacloud_webhook import signature_of
from ingestion_pipeline.domain import ParseOutcome
from ingestion_pipeline.errors import ConfigurationError, IngestionError

SECRET = "a-signing-secret-of-the-parser"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
EVENT = {
    "event_id": "e1",
    "event_type": "parse.success",
    "timestamp": NOW.timestamp(),
    "data": {"id": "pjb-1", "job_id": "pjb-1"},
}


def verify(body: bytes, *, now: datetime | float = NOW, window_seconds: float = 300.0) -> ParseEvent:
    return verify_webhook(body, signature_of(body, SECRET), SECRET, now, window_seconds)


def verify_event(**changes: Any) -> ParseEvent:
    return verify(json.dumps(EVENT | changes).encode())


def refused(body: bytes, **options: Any) -> str:
    with pytest.raises(WebhookRejectedError) as caught:
        verify(body, **options)
    assert isinstance(caught.value, IngestionError)
    return caught.value.code


def test_a_signed_event_of_now_is_read() -> None:
    assert verify_event() == ParseEvent("e1", "parse.success", "pjb-1", NOW, ParseOutcome.SUCCESS)


def test_a_body_that_was_encoded_twice_is_read_as_well() -> None:
    assert verify(json.dumps(json.dumps(EVENT)).encode()) == verify_event()


def test_the_time_may_be_given_in_seconds() -> None:
    assert verify(json.dumps(EVENT).encode(), now=NOW.timestamp()) == verify_event()


@pytest.mark.parametrize(
    ("event_type", "outcome"),
    [
        ("parse.success", ParseOutcome.SUCCESS),
        ("parse.partial_success", ParseOutcome.PARTIAL_SUCCESS),
        ("parse.error", ParseOutcome.ERROR),
        ("parse.cancelled", ParseOutcome.CANCELLED),
        ("parse.pending", None),
        ("parse.running", None),
        ("extract.success", None),
    ],
)
def test_the_outcome_follows_from_the_type_of_the_event(event_type: str, outcome: ParseOutcome | None) -> None:
    assert verify_event(event_type=event_type).outcome is outcome


def test_the_id_stands_for_the_job_id_where_there_is_no_job_id() -> None:
    assert verify_event(data={"id": "pjb-2"}).job_id == "pjb-2"


GOOD_BODY = json.dumps(EVENT).encode()
GOOD_SIGNATURE = signature_of(GOOD_BODY, SECRET)
WRONG_SIGNATURES = [
    None,
    "",
    "sha256=",
    GOOD_SIGNATURE.removeprefix("sha256="),
    GOOD_SIGNATURE.replace("sha256", "sha1"),
    GOOD_SIGNATURE[:-1],
    GOOD_SIGNATURE + "0",
    signature_of(GOOD_BODY, SECRET + "!"),
    signature_of(GOOD_BODY + b" ", SECRET),
    "sha256=ä\udcff",
]


@pytest.mark.parametrize("signature", WRONG_SIGNATURES, ids=ascii)
def test_a_missing_or_wrong_signature_is_refused_whatever_the_body_says(signature: str | None) -> None:
    for body in (GOOD_BODY, b"not json"):
        with pytest.raises(WebhookRejectedError) as caught:
            verify_webhook(body, signature, SECRET, NOW, 300.0)
        assert caught.value.code == "bad_signature"
        assert SECRET not in str(caught.value)


def test_the_signature_covers_every_byte_of_the_raw_body() -> None:
    for position in range(len(GOOD_BODY)):
        changed = bytearray(GOOD_BODY)
        changed[position] ^= 1
        with pytest.raises(WebhookRejectedError) as caught:
            verify_webhook(bytes(changed), GOOD_SIGNATURE, SECRET, NOW, 300.0)
        assert caught.value.code == "bad_signature"


def test_an_empty_secret_is_a_wrong_setting_and_verifies_nothing() -> None:
    with pytest.raises(ConfigurationError):
        verify_webhook(GOOD_BODY, signature_of(GOOD_BODY, ""), "", NOW, 300.0)


def test_an_event_outside_of_the_window_is_stale_on_both_sides() -> None:
    for seconds in (-300, 0, 300):
        assert verify(GOOD_BODY, now=NOW + timedelta(seconds=seconds)).event_id == "e1"
    for seconds in (-301, 301, 1_000_000):
        assert refused(GOOD_BODY, now=NOW + timedelta(seconds=seconds)) == "stale_event"
    assert refused(json.dumps(EVENT | {"timestamp": 1e300}).encode()) == "stale_event"
    assert refused(json.dumps(EVENT | {"timestamp": -1}).encode()) == "stale_event"


MALFORMED_EVENTS: list[dict[str, Any]] = [
    {"timestamp": None},
    {"timestamp": True},
    {"timestamp": "2026-11-23T12:00:00Z"},
    {"timestamp": float("nan")},
    {"timestamp": float("inf")},
    {"timestamp": 10**400},
    {"event_id": None},
    {"event_id": ""},
    {"event_id": 7},
    {"event_id": "e" * 201},
    {"event_id": "e\x00"},
    {"event_id": "e 1"},
    {"event_id": "\ud800"},
    {"event_type": None},
    {"data": None},
    {"data": "pjb-1"},
    {"data": {}},
    {"data": {"job_id": 7}},
    {"data": {"id": "pjb-1", "job_id": ""}},
]


@pytest.mark.parametrize("changes", MALFORMED_EVENTS, ids=ascii)
def test_a_signed_event_without_what_it_needs_is_malformed(changes: dict[str, Any]) -> None:
    assert refused(json.dumps(EVENT | changes).encode()) == "malformed_event"


MALFORMED_BODIES = [b"", b"null", b"[]", b"7", b"{", b'"', b"\xff", b'"{"', b'"[]"', b"[" * 100_000, b"9" * 5_000]


@pytest.mark.parametrize("body", MALFORMED_BODIES, ids=lambda body: ascii(body[:10]))
def test_a_signed_body_that_is_no_event_is_malformed(body: bytes) -> None:
    assert refused(body) == "malformed_event"
