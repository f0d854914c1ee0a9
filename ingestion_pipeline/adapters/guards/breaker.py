"""A circuit breaker that all processes share: while a vendor is ill, work waits instead of failing against it.

Only what speaks of the vendor's health counts. A process asks for the breaker's state once a second while it is closed
and not at all before an open one may be tested; successes are not written, but for those that end a run of failures.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID, uuid4

import structlog

from ingestion_pipeline.adapters.postgres.vendor_guards import (
    BreakerPolicy,
    BreakerView,
    FailedCall,
    PostgresVendorGuards,
)
from ingestion_pipeline.domain import UsageShare, Vendor, VendorCall
from ingestion_pipeline.errors import (
    DatabaseUnavailableError,
    IngestionError,
    InvalidDocumentError,
    ParseJobLostError,
    VendorPausedError,
    VendorRejectedError,
    VendorUnavailableError,
)

FRESH_SECONDS = 1.0
PROBE_POLL_SECONDS = 0.1

# No connection, no answer in time, 5xx, 429, an answer that makes no sense. With other codes of VendorUnavailableError
# (a job that is not ready, or ran out of time) the vendor is well.
HEALTH_CODES = frozenset({"vendor_unavailable", "rate_limited", "malformed_response"})
# What a vendor answered, so that it is well. Other errors, such as those of our own store, say nothing about it.
ANSWERS = (VendorRejectedError, VendorUnavailableError, ParseJobLostError, InvalidDocumentError)

log = structlog.get_logger(__name__)


def speaks_of_health(error: IngestionError) -> bool:
    """Whether an error counts for the breaker of its vendor."""
    return isinstance(error, VendorUnavailableError) and error.code in HEALTH_CODES


class CircuitBreaker:
    """The breaker of one vendor as the threads of this process see it."""

    def __init__(
        self, vendor: Vendor, shared: PostgresVendorGuards, policy: BreakerPolicy, *, patience_seconds: float
    ) -> None:
        """`patience_seconds` is how long calls of this process wait for the outcome of a probe."""
        self._vendor = vendor
        self._shared = shared
        self._policy = policy
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._view = BreakerView("closed", 0.0, 0)
        self._fresh_until = 0.0
        self._half_open_since: float | None = None

    def check(self) -> None:
        """Raise VendorPausedError if the breaker is known to be open, without asking anybody."""
        with self._lock:
            remaining = self._fresh_until - time.monotonic()
            if self._view.verdict == "open" and remaining > 0:
                raise self._paused(remaining)

    @contextmanager
    def call(
        self, operation: str, model: str, share: Callable[[IngestionError], UsageShare] = lambda _: UsageShare(None)
    ) -> Iterator[UUID]:
        """Around one call of the vendor, whose outcome is noted; `share` is what an answer that failed was billed.

        Yields the call's id. The log has a line of each call, with what the caller has bound to structlog's context.

        Raises VendorPausedError, and no call is made, while the breaker is open. An error with which it opens, or stays
        open, uses up no attempt.
        """
        probe_id, call_id = self._enter(), uuid4()
        started = time.perf_counter()

        def told(outcome: str) -> float:
            seconds = time.perf_counter() - started
            log.info(
                "vendor call",
                vendor=self._vendor.value,
                operation=operation,
                outcome=outcome,
                seconds=round(seconds, 3),
            )
            return seconds

        with structlog.contextvars.bound_contextvars(call_id=str(call_id)):
            try:
                yield call_id
            except ANSWERS as error:
                seconds = told(error.code)
                call = VendorCall(self._vendor, operation, model, (share(error),), seconds, error.code, call_id)
                counts = speaks_of_health(error)
                view = self._failed(FailedCall(call, error.message, counts, error.retry_after_seconds), probe_id)
                if counts and view.verdict != "closed":
                    error.uses_attempt = False
                    error.retry_after_seconds = max(error.retry_after_seconds or 0.0, self._wait_seconds(view))
                raise
            told("ok")
        self._succeeded(probe_id)

    def _enter(self) -> UUID | None:
        """The id of the probe that the call is, None if it is none."""
        while True:
            with self._lock:
                if time.monotonic() >= self._fresh_until:
                    probe_id = uuid4()
                    view = self._shared.enter(self._vendor, probe_id, self._policy.probe_seconds)
                    if view.verdict == "probe":
                        log.info("vendor is tested", vendor=self._vendor.value)
                        self._remember(replace(view, verdict="half_open"))
                        return probe_id
                    self._remember(view)
                view, now = self._view, time.monotonic()
                if view.verdict == "closed":
                    return None
                if view.verdict == "open":
                    raise self._paused(self._fresh_until - now)
                since = self._half_open_since or now
            if now - since >= self._patience_seconds:
                raise self._paused(self._wait_seconds(view))
            time.sleep(PROBE_POLL_SECONDS)

    def _failed(self, failed: FailedCall, probe_id: UUID | None) -> BreakerView:
        try:
            view = self._shared.failed(failed, probe_id, self._policy)
        except DatabaseUnavailableError as error:  # the vendor's error is the one that counts
            log.warning("failed call not noted", vendor=self._vendor.value, reason=error.message)
            return self._view
        with self._lock:
            if view.verdict == "open" and self._view.verdict != "open":
                log.warning("vendor is paused", vendor=self._vendor.value, seconds=round(view.wait_seconds, 1))
            self._remember(view)
        return view

    def _succeeded(self, probe_id: UUID | None) -> None:
        if probe_id is None and self._view.failures == 0:
            return
        try:
            self._shared.succeeded(self._vendor, probe_id)
        except DatabaseUnavailableError as error:  # what was answered is paid for and has to reach its document
            log.warning("success not noted", vendor=self._vendor.value, reason=error.message)
            return
        with self._lock:
            if probe_id is not None:
                log.info("vendor is well again", vendor=self._vendor.value)
            if probe_id is not None or self._view.verdict == "closed":
                self._remember(BreakerView("closed", 0.0, 0))

    def _remember(self, view: BreakerView) -> None:
        """With the lock held."""
        now = time.monotonic()
        self._view = view
        fresh_seconds = {"closed": FRESH_SECONDS, "open": view.wait_seconds}.get(view.verdict, PROBE_POLL_SECONDS)
        self._fresh_until = now + fresh_seconds
        if view.verdict != "half_open":
            self._half_open_since = None
        elif self._half_open_since is None:
            self._half_open_since = now

    def _wait_seconds(self, view: BreakerView) -> float:
        """A probe is given much time to die; its outcome is known sooner."""
        return min(view.wait_seconds, self._policy.open_seconds) if view.verdict == "half_open" else view.wait_seconds

    def _paused(self, wait_seconds: float) -> VendorPausedError:
        reason = f"calls to {self._vendor.value} are paused after {self._view.failures} failures in a row"
        return VendorPausedError(reason, retry_after_seconds=max(0.0, wait_seconds))
