"""The circuit breaker that processes share: each `Process` here has a breaker and a pool of connections of its own."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from conftest import DatabaseUrls
from stored_documents import sql, wait_for

from ingestion_pipeline.adapters.guards.breaker import CircuitBreaker
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.vendor_guards import BreakerPolicy, PostgresVendorGuards
from ingestion_pipeline.domain import Vendor, VendorHealth
from ingestion_pipeline.errors import (
    DatabaseUnavailableError,
    IngestionError,
    InvalidDocumentError,
    ParseJobLostError,
    RequestRejectedError,
    StoreUnavailableError,
    VendorPausedError,
    VendorRejectedError,
    VendorUnavailableError,
)

FAILURES = 3
SHORT = BreakerPolicy(most_failures=FAILURES, open_seconds=0.1, longest_open_seconds=10.0, probe_seconds=30.0)
LONG = BreakerPolicy(most_failures=FAILURES, open_seconds=60.0, longest_open_seconds=600.0, probe_seconds=30.0)


class CountingGuards(PostgresVendorGuards):
    """Counts the round trips."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.trips: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in ("enter", "failed", "succeeded"):
            self.trips.append(name)
        return super().__getattribute__(name)


class Process:
    """What one process has of a breaker."""

    def __init__(self, url: str, policy: BreakerPolicy, vendor: Vendor = Vendor.OPENAI, patience: float = 0.0) -> None:
        self.database = Database(url, application_name="test", setting="INGEST_WORKER_DATABASE_URL")
        self.guards = CountingGuards(self.database)
        self.breaker = CircuitBreaker(vendor, self.guards, policy, patience_seconds=patience)
        self.calls = 0

    def call(self, outcome: IngestionError | Callable[[], None] | None = None) -> None:
        """A call of the vendor with this outcome."""
        with self.breaker.call("embed", "model"):
            self.calls += 1
            if isinstance(outcome, IngestionError):
                raise outcome
            if outcome is not None:
                outcome()

    def fail(self, times: int = FAILURES) -> IngestionError:
        """So many failures in a row; the last one."""
        error = VendorUnavailableError("no answer")
        for _ in range(times):
            error = VendorUnavailableError("no answer")
            with pytest.raises(VendorUnavailableError):
                self.call(error)
        return error


@pytest.fixture
def process(database_urls: DatabaseUrls) -> Iterator[Callable[..., Process]]:
    """Makes processes."""
    with ExitStack() as stack:

        def make(policy: BreakerPolicy = SHORT, url: str = database_urls.worker, **options: Any) -> Process:
            made = Process(url, policy, **options)
            stack.callback(made.database.close)
            return made

        yield make


def health(one: Process) -> VendorHealth:
    [known] = one.guards.health()
    return known


def passes(one: Process) -> bool:
    """Whether a good call is let through."""
    with suppress(VendorPausedError):
        one.call()
        return True
    return False


def test_a_run_of_failures_opens_it_for_every_process(process: Callable[..., Process]) -> None:
    one, two = process(LONG), process(LONG)
    first = one.fail(FAILURES - 1)
    assert (first.uses_attempt, health(one).state) == (True, "closed")
    last = one.fail(1)
    assert last.uses_attempt is False
    assert last.retry_after_seconds == pytest.approx(60, abs=5)
    for each in (one, two):
        with pytest.raises(VendorPausedError, match="paused after 3 failures") as caught:
            each.call()
        assert (caught.value.uses_attempt, caught.value.transient) == (False, True)
        assert caught.value.retry_after_seconds == pytest.approx(60, abs=5)
    assert (one.calls, two.calls) == (FAILURES, 0)
    state = health(two)
    assert (state.vendor, state.state, state.last_error_code) == (Vendor.OPENAI, "open", "vendor_unavailable")
    assert state.last_error_message == "no answer"


def test_failures_of_several_processes_are_one_run(process: Callable[..., Process]) -> None:
    for each in (process(LONG), process(LONG), process(LONG)):
        each.fail(1)
    assert health(process()).state == "open"


def test_a_success_ends_a_run(process: Callable[..., Process]) -> None:
    one = process(LONG)
    for _ in range(3):
        one.fail(FAILURES - 1)
        one.call()
    assert (health(one).state, health(one).failures) == ("closed", 0)


@pytest.mark.parametrize(
    "error",
    [
        RequestRejectedError("too long"),
        VendorRejectedError("no such key", code="invalid_api_key"),
        ParseJobLostError("unknown job"),
        InvalidDocumentError("protected", code="pdf_is_protected"),
        VendorUnavailableError("at work", code="parse_not_ready"),
        VendorUnavailableError("a large file", code="timeout"),
        StoreUnavailableError("our own store"),
    ],
    ids=lambda error: error.code,
)
def test_what_is_a_documents_fault_or_ours_does_not_count(
    process: Callable[..., Process], error: IngestionError
) -> None:
    one = process(LONG)
    for _ in range(FAILURES + 1):
        with pytest.raises(type(error)):
            one.call(error)
    assert error.uses_attempt is True
    one.call()
    assert one.calls == FAILURES + 2


def test_an_answer_that_refuses_a_document_ends_a_run_as_well(process: Callable[..., Process]) -> None:
    one = process(LONG)
    one.fail(FAILURES - 1)
    with pytest.raises(RequestRejectedError):
        one.call(RequestRejectedError("too long"))
    one.fail(FAILURES - 1)
    assert health(one).state == "closed"


def test_of_eight_processes_one_tests_the_vendor_and_the_others_go_on_when_it_is_well(
    process: Callable[..., Process],
) -> None:
    eight = [process(patience=20.0) for _ in range(8)]
    eight[0].fail()
    probes: list[str] = []
    may_answer = threading.Event()
    barrier = threading.Barrier(8)

    def work(one: Process) -> None:
        def answer() -> None:
            if not may_answer.is_set():
                probes.append("sent")
                assert may_answer.wait(20)

        barrier.wait()
        while True:
            with suppress(VendorPausedError):
                return one.call(answer)

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(work, one) for one in eight]
        wait_for(lambda: probes, "a probe")
        asked = [sum(trip == "enter" for trip in one.guards.trips) for one in eight]
        wait_for(
            lambda: all(sum(trip == "enter" for trip in one.guards.trips) >= before + 2 or one.calls
                        for one, before in zip(eight, asked, strict=True)),
            "the others ask in vain",
        )  # fmt: skip
        assert (probes, health(eight[0]).state) == (["sent"], "half_open")
        may_answer.set()
        for each in done:
            each.result(20)
    assert (probes, health(eight[0]).state, health(eight[0]).failures) == (["sent"], "closed", 0)


def failing_probe(one: Process) -> float | None:
    """For how long the breaker is open after a probe that failed; None if it was not time for one."""
    error = VendorUnavailableError("no answer")
    try:
        with pytest.raises(VendorUnavailableError):
            one.call(error)
    except VendorPausedError:
        return None
    assert error.uses_attempt is False
    return error.retry_after_seconds


def test_a_probe_that_fails_opens_it_again_for_longer(process: Callable[..., Process]) -> None:
    one = process()
    one.fail()
    since = health(one).since
    waits: list[float | None] = []
    for _ in range(2):
        wait_for(lambda: waits.append(failing_probe(one)) or waits[-1] is not None, "a probe")
    assert [wait for wait in waits if wait is not None] == pytest.approx([0.2, 0.4], rel=0.3)
    assert health(one).since == since
    wait_for(lambda: passes(one), "it closes")
    assert health(one).state == "closed"
    assert health(one).since > since


def test_after_a_probe_that_never_ends_comes_another(process: Callable[..., Process]) -> None:
    policy = BreakerPolicy(most_failures=2, open_seconds=0.05, longest_open_seconds=1.0, probe_seconds=1.0)
    dying, other = process(policy), process(policy)
    dying.fail(2)
    probing, ends = threading.Event(), threading.Event()

    def probe() -> None:
        def hang() -> None:
            probing.set()
            ends.wait(20)
            raise VendorUnavailableError("no answer, at last")

        while not probing.is_set():
            with suppress(VendorPausedError, VendorUnavailableError):
                dying.call(hang)

    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(probe)
        wait_for(probing.is_set, "the probe")
        assert not passes(other)
        wait_for(lambda: passes(other), "another probe")
        ends.set()
        hanging.result(20)
    assert (health(other).state, health(other).failures) == ("closed", 1)  # the late failure begins a new run


def test_the_vendors_own_waiting_time_is_the_least(process: Callable[..., Process]) -> None:
    one = process()
    one.fail(FAILURES - 1)
    with pytest.raises(VendorUnavailableError) as caught:
        one.call(VendorUnavailableError("slow down", code="rate_limited", retry_after_seconds=45))
    assert caught.value.retry_after_seconds == pytest.approx(45, abs=5)
    assert not passes(one)


def test_failures_of_calls_that_began_before_it_opened_change_nothing(process: Callable[..., Process]) -> None:
    one = process(LONG)
    release, started = threading.Event(), threading.Barrier(3)

    def late() -> None:
        def fail() -> None:
            started.wait()
            release.wait(20)
            raise VendorUnavailableError("no answer")

        with pytest.raises(VendorUnavailableError) as caught:
            one.call(fail)
        assert caught.value.uses_attempt is False

    with ThreadPoolExecutor(2) as pool:
        hanging = [pool.submit(late) for _ in range(2)]
        started.wait()
        one.fail()
        opened = health(one)
        release.set()
        for each in hanging:
            each.result(20)
    assert (health(one).reopens_at, health(one).state) == (opened.reopens_at, "open")


def test_vendors_are_apart_from_one_another(process: Callable[..., Process]) -> None:
    embeddings, parsing = process(LONG), process(LONG, vendor=Vendor.LLAMACLOUD)
    embeddings.fail()
    assert passes(parsing)
    assert not passes(embeddings)


def test_calls_that_succeed_cost_no_round_trip(process: Callable[..., Process]) -> None:
    one = process()
    started = time.monotonic()
    for _ in range(1000):
        one.call()
    assert one.guards.trips.count("enter") <= 1 + time.monotonic() - started
    assert set(one.guards.trips) == {"enter"}


def test_while_it_is_open_nobody_is_asked(process: Callable[..., Process]) -> None:
    one = process(LONG)
    one.fail()
    before = len(one.guards.trips)
    assert not any(passes(one) for _ in range(100))
    assert len(one.guards.trips) == before


def test_the_api_shares_it_and_may_ask_for_it(process: Callable[..., Process], database_urls: DatabaseUrls) -> None:
    worker, api = process(LONG), process(LONG, url=database_urls.api)
    api.call()
    api.fail()
    assert health(api).state == "open"
    assert not passes(worker)


def test_a_failed_call_is_in_the_ledger(process: Callable[..., Process], database_urls: DatabaseUrls) -> None:
    one = process()
    one.fail(1)
    with pytest.raises(VendorRejectedError):
        one.call(VendorRejectedError("no such key", code="invalid_api_key"))
    assert sql(
        database_urls.owner,
        "select provider, operation, model, outcome, tokens, seconds >= 0 from upload_pipeline.provider_usage "
        "order by usage_id",
    ) == [
        ("openai", "embed", "model", "vendor_unavailable", 0, True),
        ("openai", "embed", "model", "invalid_api_key", 0, True),
    ]


def test_an_answer_reaches_the_document_though_the_database_went_away(process: Callable[..., Process]) -> None:
    one = process(LONG)
    one.fail(1)

    def away(*_: object) -> None:
        raise DatabaseUnavailableError("restarting")

    one.guards.succeeded = one.guards.failed = away  # type: ignore[assignment, method-assign]
    one.call()
    with pytest.raises(VendorUnavailableError, match="no answer"):
        one.call(VendorUnavailableError("no answer"))
