"""What the adapters read from every vendor's answers: waiting times and quotes."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from ingestion_pipeline.adapters.vendor_answers import LONGEST_RETRY_AFTER_SECONDS, quoted, retry_after_seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "-4"}, 0.0),
        ({"retry-after": "1e400"}, LONGEST_RETRY_AFTER_SECONDS),
        ({"retry-after": "999999"}, LONGEST_RETRY_AFTER_SECONDS),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
    ids=str,
)
def test_waiting_times_are_read_in_each_form_and_never_trusted_blindly(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after_seconds(headers) == seconds


def test_a_waiting_time_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert retry_after_seconds({"retry-after": date}) == pytest.approx(60, abs=2)


def test_a_quote_is_one_short_line_without_secrets() -> None:
    assert quoted("a\n b\tsecret c", "secret") == "a b *** c"
    assert len(quoted("x" * 10_000)) == 300
