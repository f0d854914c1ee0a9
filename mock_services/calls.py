"""Counters of what an application was asked: calls, inputs, tokens, and how many calls were in flight at once."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class OperationCount:
    """Calls of one operation."""

    calls: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    statuses: Counter[str] = field(default_factory=Counter)


class CallCounter:
    """Counts calls by operation and what they carried; touched from the event loop only, so without locks."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Back to zero; calls in flight finish on the old counters."""
        self._operations: dict[str, OperationCount] = defaultdict(OperationCount)
        self._total = OperationCount()
        self._inputs = 0
        self._tokens = 0
        self._distinct: set[bytes] = set()
        self._webhooks: Counter[str] = Counter()

    @contextmanager
    def in_flight(self, operation: str) -> Iterator[OperationCount]:
        """Count one call while it lasts; the caller adds the status to what it yields."""
        counts = (self._operations[operation], self._total)
        for count in counts:
            count.calls += 1
            count.in_flight += 1
            count.max_in_flight = max(count.max_in_flight, count.in_flight)
        try:
            yield counts[0]
        finally:
            for count in counts:
                count.in_flight -= 1

    def add_inputs(self, digests: list[bytes], tokens: int = 0) -> None:
        """Count what a call carried: a digest for each text or file, and the tokens of them all."""
        self._inputs += len(digests)
        self._distinct.update(digests)
        self._tokens += tokens

    @property
    def webhooks(self) -> Counter[str]:
        """Attempts and outcomes of deliveries; one under way at a reset goes on counting on what it took before."""
        return self._webhooks

    def report(self) -> dict[str, Any]:
        """The counters as a JSON object."""
        return {
            "calls": self._total.calls,
            "in_flight": self._total.in_flight,
            "max_in_flight": self._total.max_in_flight,
            "inputs": self._inputs,
            "distinct_inputs": len(self._distinct),
            "tokens": self._tokens,
            "webhooks": dict(self._webhooks),
            "operations": {
                name: {
                    "calls": count.calls,
                    "in_flight": count.in_flight,
                    "max_in_flight": count.max_in_flight,
                    "statuses": dict(count.statuses),
                }
                for name, count in self._operations.items()
            },
        }
