"""LlamaParse's webhooks: is it the vendor who speaks, is it now, and what does it say. Pure functions.

The SDK documents the signature and ships nothing that verifies it. The headers `X-Webhook-*` are not signed, so only
the body counts.
"""

import hashlib
import hmac
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ingestion_pipeline.domain import ParseOutcome
from ingestion_pipeline.errors import ConfigurationError, IngestionError

OUTCOME_OF_EVENT = {
    "parse.success": ParseOutcome.SUCCESS,
    "parse.partial_success": ParseOutcome.PARTIAL_SUCCESS,
    "parse.error": ParseOutcome.ERROR,
    "parse.cancelled": ParseOutcome.CANCELLED,
}
_WORD = re.compile(r"[\x21-\x7e]{1,200}")


class WebhookRejectedError(IngestionError):
    """A webhook that must have no effect: `code` is bad_signature, stale_event or malformed_event."""

    code = "malformed_event"


@dataclass(frozen=True, slots=True)
class ParseEvent:
    """A verified event; `outcome` is None where the job is not over. Deduplicate on `event_id`."""

    event_id: str
    event_type: str
    job_id: str
    timestamp: datetime
    outcome: ParseOutcome | None


def signature_of(raw_body: bytes, secret: str) -> str:
    """The value of the header `LC-Signature`: HMAC-SHA256 of the raw body, in hexadecimal."""
    return "sha256=" + hmac.new(secret.encode(), raw_body, hashlib.sha256).hexdigest()


def verify_webhook(
    raw_body: bytes, signature_header: str | None, secret: str, now: datetime | float, window_seconds: float
) -> ParseEvent:
    """The event of a body that is signed with `secret` and whose own time is at most `window_seconds` from `now`.

    `now` is an aware datetime or seconds since 1970. Raises WebhookRejectedError; ConfigurationError without a secret.
    """
    if not secret:
        raise ConfigurationError("the signing secret of the parser's webhooks is empty")
    given = (signature_header or "").strip().encode(errors="replace")
    if not hmac.compare_digest(signature_of(raw_body, secret).encode(), given):
        raise WebhookRejectedError("the signature is missing or wrong", code="bad_signature")
    body = _decoded(raw_body)
    sent = _seconds(body)
    seconds_now = now.timestamp() if isinstance(now, datetime) else now
    if abs(seconds_now - sent) > window_seconds:
        raise WebhookRejectedError(f"the event is not of the last {window_seconds:g} seconds", code="stale_event")
    data = body.get("data")
    if not isinstance(data, dict):
        raise WebhookRejectedError("the event has no data")
    event_type = _word(body, "event_type")
    return ParseEvent(
        event_id=_word(body, "event_id"),
        event_type=event_type,
        job_id=_word(data, "job_id" if "job_id" in data else "id"),
        timestamp=datetime.fromtimestamp(sent, UTC),
        outcome=OUTCOME_OF_EVENT.get(event_type),
    )


def _decoded(raw_body: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw_body)
        if isinstance(body, str):  # the vendor's output format `string`: JSON within a JSON string
            body = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WebhookRejectedError("the event is not JSON") from error
    if not isinstance(body, dict):
        raise WebhookRejectedError("the event is not a JSON object")
    return body


def _seconds(body: dict[str, Any]) -> float:
    timestamp = body.get("timestamp")
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float):
        raise WebhookRejectedError("the event has no timestamp")
    try:
        seconds = float(timestamp)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise WebhookRejectedError("the event's timestamp is not a time")
    return seconds


def _word(fields: dict[str, Any], name: str) -> str:
    """Printable ASCII without spaces: what follows goes into the database and into addresses."""
    value = fields.get(name)
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise WebhookRejectedError(f"the event has no proper {name}")
    return value
