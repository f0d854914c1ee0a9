"""How long one document takes on an idle stack, and where the time goes; what the stack costs when nothing happens."""

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from ingestion_pipeline.domain import HAPPY_PATH
from ingestion_pipeline_tests.performance.corpus import SMALL_BYTES, document
from ingestion_pipeline_tests.performance.live import Live, live
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Surroundings

MEDIAN_SECONDS, WORST_SECONDS = 3.0, 5.0
POLL_SECONDS = 0.02
TIMEOUT_SECONDS = 120.0
BETWEEN_SECONDS = 1.0


def measure(here: Surroundings, documents: int, idle_seconds: float) -> Iterator[Figure]:
    """Documents of 8 KB, one after the other, from POST to complete; then a while of nothing."""
    with live(here, "latency") as stack:
        _one(stack, "to warm up")
        taken = [_one(stack, f"number {number}") for number in range(documents)]
        yield from _latencies([seconds for seconds, _ in taken])
        yield from _where([steps for _, steps in taken])
        yield from _idle(stack, idle_seconds)


def _one(stack: Live, title: str) -> tuple[float, dict[str, float]]:
    """Seconds from POST to complete as a client sees it, and what each step took by the document's history."""
    time.sleep(BETWEEN_SECONDS)  # an idle stack: not one that has just done the same
    with closing(stack.connect()) as connection:
        started = time.perf_counter()
        document_id = stack.upload(connection, f"{title}.md", document(title, SMALL_BYTES).encode())["document_id"]
        accepted = time.perf_counter() - started
        path = f"/documents/{document_id}"
        while (seen := stack.call(connection, "GET", path))["state"] != "complete":
            assert time.perf_counter() - started < TIMEOUT_SECONDS, seen
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - started
        return seconds, {"POST answered": accepted, **_steps(stack.call(connection, "GET", f"{path}/events"))}


def _steps(history: dict[str, Any]) -> dict[str, float]:
    """Seconds from each state to the next."""
    at = {event["to_state"]: datetime.fromisoformat(event["at"]) for event in history["events"]}
    return {
        f"{before} to {after}": (at[after] - at[before]).total_seconds()
        for before, after in pairwise([state.value for state in HAPPY_PATH])
    }


def _latencies(seconds: list[float]) -> Iterator[Figure]:
    middle, worst = median(seconds), max(seconds)
    name = f"latency of {len(seconds)} documents of 8 KB"
    yield Figure(name, "median", middle, "s", target=f"<= {MEDIAN_SECONDS:g}", met=middle <= MEDIAN_SECONDS)
    yield Figure(name, "worst", worst, "s", target=f"<= {WORST_SECONDS:g}", met=worst <= WORST_SECONDS)


def _where(taken: list[dict[str, float]]) -> Iterator[Figure]:
    for step in taken[0]:
        yield Figure("where it goes", f"{step}, median", median(steps[step] for steps in taken), "s")


def _idle(stack: Live, seconds: float) -> Iterator[Figure]:
    before, started = stack.cpu_by_service(), time.perf_counter()
    time.sleep(seconds)  # the measurement itself
    after, elapsed = stack.cpu_by_service(), time.perf_counter() - started
    a_minute = {name: (after[name] - before[name]) / elapsed * 60 for name in after}
    for name, used in sorted(a_minute.items(), key=lambda pair: -pair[1]):
        yield Figure("idle stack", f"CPU, {name}", used, "s a minute")
    yield Figure("idle stack", "CPU, together", sum(a_minute.values()), "s a minute")
