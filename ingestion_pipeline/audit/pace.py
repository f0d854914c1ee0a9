"""Reads no faster than it may, so that an audit leaves the store to those who work."""

import threading
import time
from collections.abc import Callable


class Pace:
    """At most so many bytes a second on average, for all threads that share it; None is as fast as it goes."""

    def __init__(
        self,
        bytes_per_second: float | None,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._now = now
        self._sleep = sleep
        self._free_at = now()
        self._lock = threading.Lock()

    def spend(self, count: int) -> None:
        """Wait until `count` bytes that were just read are within the rate."""
        if self._rate is None:
            return
        with self._lock:
            now = self._now()
            self._free_at = max(self._free_at, now) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)
