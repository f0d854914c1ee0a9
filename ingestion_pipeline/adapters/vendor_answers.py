"""What the adapters of HTTP vendors share: a client's settings, waiting times, quotes from answers in messages."""

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from urllib.parse import urlsplit

from ingestion_pipeline.errors import ConfigurationError

LONGEST_RETRY_AFTER_SECONDS = 3600.0
MAX_QUOTED_CHARACTERS = 300


def check_client_settings(vendor: str, base_url: str, api_key: str) -> None:
    """Raise ConfigurationError for a URL or key that no request can be made with; the key is not in the message."""
    url = urlsplit(base_url)
    if url.scheme not in ("http", "https") or not url.hostname or url.username:
        raise ConfigurationError(f"the base URL of {vendor} must look like https://host/path")
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ConfigurationError(f"the API key of {vendor} must be printable ASCII without spaces")


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """How long the vendor asks to wait, at most an hour; None if it does not say or not in a way that makes sense.

    `retry-after-ms` comes before `Retry-After`, which is in seconds or a date (RFC 9110, section 10.2.3).
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            seconds = _seconds_until(value)
        if not math.isnan(seconds):
            return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)
    return None


def quoted(answer: object, *secrets: str) -> str:
    """The beginning of what a vendor said, for a message: one line, without our secrets."""
    text = " ".join(str(answer).split())
    for secret in secrets:
        text = text.replace(secret, "***")
    return text[:MAX_QUOTED_CHARACTERS]


def _seconds_until(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp() - time()
    except (ValueError, OverflowError):
        return math.nan
