"""Rate limits that all processes keep to together: token buckets in Postgres, asked only where a limit is set."""

import threading
import time
from collections import defaultdict
from collections.abc import Mapping

from ingestion_pipeline.adapters.postgres.vendor_guards import PostgresVendorGuards, Take
from ingestion_pipeline.errors import RateLimitReachedError

BURST_SECONDS = 5.0  # a bucket holds what flows in within this time: the flow is even, and a pause is not caught up


class RateLimiter:
    """Buckets by name with their limits a minute; names without a limit are not limited."""

    def __init__(
        self,
        shared: PostgresVendorGuards,
        per_minute: Mapping[str, float | None],
        *,
        longest_wait_seconds: float,
        is_urgent: bool = False,
    ) -> None:
        """A wait up to `longest_wait_seconds` is waited here. Whoever is urgent never waits: others do, for it."""
        self._shared = shared
        self._per_second = {name: limit / 60 for name, limit in per_minute.items() if limit is not None}
        self._longest_wait_seconds = longest_wait_seconds
        self._is_urgent = is_urgent
        self._lock = threading.Lock()
        self._owed: defaultdict[str, float] = defaultdict(float)

    def limits(self, bucket: str) -> bool:
        """Whether a bucket has a limit."""
        return bucket in self._per_second

    def take(self, **amounts: float) -> None:
        """Take from the buckets of these names, and wait until what was taken has flowed in.

        Raises RateLimitReachedError, with nothing taken, if that would be too long.
        """
        takes = [
            Take(name, amount + self._pay(name), max(1.0, rate * BURST_SECONDS), rate)
            for name, amount in amounts.items()
            if (rate := self._per_second.get(name))
        ]
        if not takes:
            return
        grant = self._shared.take(takes, longest_wait_seconds=self._longest_wait_seconds, is_urgent=self._is_urgent)
        if not grant.granted:
            for take in takes:
                self.correct(take.bucket, take.amount - amounts[take.bucket])
            names = " and ".join(take.bucket for take in takes)
            raise RateLimitReachedError(
                f"the limit of {names} a minute is used up", retry_after_seconds=grant.wait_seconds
            )
        if grant.wait_seconds > 0:
            time.sleep(grant.wait_seconds)

    def correct(self, bucket: str, difference: float) -> None:
        """Take so much more (or less) next time: what was taken was an estimate."""
        with self._lock:
            self._owed[bucket] += difference

    def _pay(self, bucket: str) -> float:
        with self._lock:
            return self._owed.pop(bucket, 0.0)
