"""Token buckets that processes share."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import DatabaseUrls

from ingestion_pipeline.adapters.guards.limiter import BURST_SECONDS, RateLimiter
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.vendor_guards import PostgresVendorGuards
from ingestion_pipeline.domain import BucketLevel
from ingestion_pipeline.errors import RateLimitReachedError

PER_MINUTE = 60_000.0
PER_SECOND = PER_MINUTE / 60
CAPACITY = PER_SECOND * BURST_SECONDS


def limiter_over(url: str, per_minute: dict[str, float | None], **options: Any) -> tuple[Database, RateLimiter]:
    database = Database(url, application_name="test", setting="INGEST_WORKER_DATABASE_URL")
    return database, RateLimiter(
        PostgresVendorGuards(database), per_minute, **{"longest_wait_seconds": 10.0, **options}
    )


# Takes for some seconds and prints how much: the URL, the seconds, the amount of each take, the limit a minute.
TAKE_FOR_SECONDS = """
import sys, time
from ingestion_pipeline.adapters.guards.limiter import RateLimiter
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.vendor_guards import PostgresVendorGuards

url, seconds, amount, per_minute = sys.argv[1], *map(float, sys.argv[2:])
shared = PostgresVendorGuards(Database(url, application_name="test", setting="INGEST_WORKER_DATABASE_URL"))
limiter = RateLimiter(shared, {"tokens": per_minute}, longest_wait_seconds=10.0)
total, deadline = 0.0, time.monotonic() + seconds
while time.monotonic() < deadline:
    limiter.take(tokens=amount)
    total += amount
print(total)
"""


@pytest.fixture
def limiter(database_urls: DatabaseUrls) -> Iterator[Callable[..., RateLimiter]]:
    """Makes limiters, each with connections of its own."""
    with ExitStack() as stack:

        def make(url: str = database_urls.worker, **options: Any) -> RateLimiter:
            per_minute = options.pop("per_minute", {"tokens": PER_MINUTE})
            database, made = limiter_over(url, per_minute, **options)
            stack.callback(database.close)
            return made

        yield make


@pytest.fixture
def level(database_urls: DatabaseUrls) -> Iterator[Callable[[], BucketLevel]]:
    """Looks into the only bucket."""
    database = Database(database_urls.api, application_name="test", setting="INGEST_API_DATABASE_URL")

    def look() -> BucketLevel:
        [bucket] = PostgresVendorGuards(database).levels()
        return bucket

    yield look
    database.close()


def test_two_processes_keep_to_one_rate(database_urls: DatabaseUrls, limiter: Callable[..., RateLimiter]) -> None:
    limiter().take(tokens=CAPACITY)  # no burst to begin with
    started = time.monotonic()
    command = [
        sys.executable,
        "-c",
        TAKE_FOR_SECONDS,
        database_urls.worker,
        "1.5",
        str(PER_SECOND / 10),
        str(PER_MINUTE),
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    totals = [float(process.communicate(timeout=60)[0]) for process in processes]
    elapsed = time.monotonic() - started
    assert min(totals) > 0
    assert 0.9 * 1.5 * PER_SECOND <= sum(totals) <= elapsed * PER_SECOND


def test_a_burst_is_let_through_and_then_the_rate_is_kept(limiter: Callable[..., RateLimiter]) -> None:
    one = limiter()
    one.take(tokens=CAPACITY)
    started = time.monotonic()
    one.take(tokens=PER_SECOND / 4)
    assert time.monotonic() - started >= 0.2


def test_what_would_wait_too_long_is_refused_and_told_when_to_come_each_after_the_one_before(
    limiter: Callable[..., RateLimiter],
) -> None:
    one, two = limiter(longest_wait_seconds=0.5), limiter(longest_wait_seconds=0.5)
    one.take(tokens=CAPACITY)
    waits = []
    for each in (one, two, one):
        with pytest.raises(RateLimitReachedError, match="tokens a minute is used up") as caught:
            each.take(tokens=2 * PER_SECOND)
        assert caught.value.uses_attempt is False
        waits.append(caught.value.retry_after_seconds or 0.0)
    assert waits == pytest.approx([2.0, 4.0, 6.0], abs=0.5)


def test_a_refusal_takes_nothing(limiter: Callable[..., RateLimiter], level: Callable[[], BucketLevel]) -> None:
    one = limiter(longest_wait_seconds=0.0, per_minute={"tokens": 60.0})
    one.take(tokens=5)
    for _ in range(5):
        with pytest.raises(RateLimitReachedError):
            one.take(tokens=3)
    assert level().level == pytest.approx(0.0, abs=1.0)


def test_more_than_a_bucket_holds_goes_through_and_is_paid_afterwards(
    limiter: Callable[..., RateLimiter], level: Callable[[], BucketLevel]
) -> None:
    limiter().take(tokens=3 * CAPACITY)
    assert level().level == pytest.approx(-2 * CAPACITY, rel=0.2)


def test_all_buckets_are_taken_from_or_none(limiter: Callable[..., RateLimiter]) -> None:
    both = limiter(per_minute={"requests": 60.0, "tokens": PER_MINUTE}, longest_wait_seconds=0.0)
    both.take(requests=5, tokens=1)
    with pytest.raises(RateLimitReachedError, match="requests and tokens"):
        both.take(requests=4, tokens=CAPACITY - 10)
    limiter(longest_wait_seconds=0.0).take(tokens=CAPACITY - 10)


def test_a_search_goes_ahead_and_the_others_wait_for_it(
    limiter: Callable[..., RateLimiter], database_urls: DatabaseUrls, level: Callable[[], BucketLevel]
) -> None:
    one, search = limiter(), limiter(url=database_urls.api, is_urgent=True, longest_wait_seconds=0.0)
    one.take(tokens=CAPACITY)
    search.take(tokens=CAPACITY)
    assert level().level < -CAPACITY / 2


def test_an_estimate_is_corrected_by_the_next(
    limiter: Callable[..., RateLimiter], level: Callable[[], BucketLevel]
) -> None:
    one = limiter(per_minute={"tokens": 600.0})
    one.take(tokens=10)
    one.correct("tokens", 20)
    one.take(tokens=1)
    assert level().level == pytest.approx(50 - 31, abs=5)


def test_a_refused_correction_is_not_forgotten(limiter: Callable[..., RateLimiter]) -> None:
    one = limiter(per_minute={"tokens": 6.0}, longest_wait_seconds=0.0)
    one.take(tokens=1)
    one.correct("tokens", 3)
    waits = []
    for _ in range(3):
        with pytest.raises(RateLimitReachedError) as caught:
            one.take(tokens=1)
        waits.append(caught.value.retry_after_seconds or 0.0)
    assert waits == pytest.approx([10.0, 50.0, 90.0], abs=5)  # four tokens each time, at one in ten seconds


def test_without_a_limit_nobody_is_asked() -> None:
    nobody: Any = None
    limiter = RateLimiter(nobody, {"tokens": None}, longest_wait_seconds=0.0)
    limiter.take(tokens=1e9, requests=1)
    assert not limiter.limits("tokens")
