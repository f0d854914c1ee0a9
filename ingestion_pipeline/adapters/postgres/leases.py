"""What this process believes to hold: until when, by its own clock, and what it lost while it stood still."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

# A clock that goes on while the machine sleeps, where there is one: leases run out meanwhile.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds of that clock."""
    return time.clock_gettime(CLOCK)


@dataclass(slots=True)
class _Lease:
    expires_at: float
    held: set[UUID]
    lost: set[UUID] = field(default_factory=set)


class Leases:
    """Of each claim, when it was asked for last and what came of it. Safe to use from threads."""

    def __init__(self, claim_seconds: float) -> None:
        self._claim_seconds = claim_seconds
        self._lock = threading.Lock()
        self._leases: dict[str, _Lease] = {}

    def renewed(self, claim: str, asked_at: float, document_ids: Iterable[UUID]) -> None:
        """The database said what the claim holds; `asked_at` is by `now`. What went while it had run out is lost."""
        held = set(document_ids)
        with self._lock:
            former = self._leases.get(claim)
            lease = _Lease(asked_at + self._claim_seconds, held)
            if former is not None:
                gone = former.held - held if asked_at >= former.expires_at else set()
                lease.lost = former.lost | gone
                lease.expires_at = max(lease.expires_at, former.expires_at)
            self._leases[claim] = lease

    def has_run_out(self, claim: str) -> bool:
        """Whether others may have taken what the claim held, for all that this process knows."""
        with self._lock:
            lease = self._leases.get(claim)
            return lease is None or now() >= lease.expires_at

    def lost(self, claim: str, document_ids: Iterable[UUID]) -> set[UUID]:
        """Which of these the claim lost by running out."""
        with self._lock:
            lease = self._leases.get(claim)
            return lease.lost.intersection(document_ids) if lease is not None else set()

    def forget(self, claim: str) -> None:
        """The claim is given back."""
        with self._lock:
            self._leases.pop(claim, None)
