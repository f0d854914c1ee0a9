"""What follows from an error: the decision, and how it is recorded."""

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from ingestion_pipeline.domain import Document, Failure, State
from ingestion_pipeline.errors import (
    CheckFailedError,
    ClaimLostError,
    DatabaseUnavailableError,
    IngestionError,
    InvalidDocumentError,
    ParseJobLostError,
    PermanentError,
    TransientError,
    VendorPausedError,
    VendorUnavailableError,
)
from ingestion_pipeline.pipeline.failures import (
    LONGEST_DELAY_SECONDS,
    MAX_MESSAGE_CHARACTERS,
    GiveUp,
    Retry,
    Wait,
    classify,
    decide,
    settle,
)
from ingestion_pipeline.pipeline.report import Asset, Verdict
from ingestion_pipeline.pipeline.services import Limits, Services

SECRET = "sk-live-0123456789"
OUTAGE = Failure(code="vendor_unavailable", message="no answer", stage="parsed", transient=True)


def longest(low: float, high: float) -> float:
    return high


def shortest(low: float, high: float) -> float:
    return low


def test_an_error_of_ours_is_taken_at_its_word() -> None:
    error = VendorUnavailableError("no answer", code="rate_limited", retry_after_seconds=7.5)
    assert classify(error, "parsed") == Failure("rate_limited", "no answer", "parsed", True, 7.5)
    assert classify(InvalidDocumentError("empty"), "raw_upload") == Failure(
        "invalid_document", "empty", "raw_upload", False
    )


@pytest.mark.parametrize(
    "bug",
    [KeyError(SECRET), ValueError(SECRET), AssertionError(SECRET), TimeoutError(SECRET), ConnectionError(SECRET)],
    ids=lambda bug: type(bug).__name__,
)
def test_anything_else_is_a_bug_that_is_permanent_and_keeps_its_text_to_itself(bug: Exception) -> None:
    failure = classify(bug, "chunks")
    assert (failure.code, failure.transient, failure.stage) == ("internal_error", False, "chunks")
    assert failure.message == f"{type(bug).__name__} in stage chunks"
    assert decide(failure, attempt=0, max_attempts=8) == GiveUp(failure)


def test_a_message_is_cut_and_holds_nothing_that_postgres_refuses() -> None:
    message = classify(PermanentError("a\0b\ud800c" + "x" * 5000), "parsed").message
    assert message.startswith("a\ufffdb?c")
    assert len(message) == MAX_MESSAGE_CHARACTERS
    message.encode()


@pytest.mark.parametrize("error", [PermanentError, InvalidDocumentError, CheckFailedError, IngestionError])
def test_a_permanent_failure_is_not_tried_again(error: type[IngestionError]) -> None:
    failure = classify(error("no"), "parsed")
    assert decide(failure, attempt=0, max_attempts=8) == GiveUp(failure)


@pytest.mark.parametrize(("attempt", "ceiling"), [(0, 1), (1, 2), (2, 4), (5, 32), (8, 256), (9, 300), (5000, 300)])
def test_the_delay_is_drawn_from_zero_to_a_ceiling_that_doubles(attempt: int, ceiling: float) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high / 4

    assert decide(OUTAGE, attempt=attempt, max_attempts=10_000, uniform=uniform) == Retry(ceiling / 4)
    assert drawn == [(0.0, ceiling)]
    assert ceiling <= LONGEST_DELAY_SECONDS


def test_delays_are_spread_by_chance() -> None:
    delays = {cast(Retry, decide(OUTAGE, attempt=6, max_attempts=8)).delay_seconds for _ in range(200)}
    assert len(delays) > 190
    assert 0 <= min(delays) < 16
    assert 48 < max(delays) <= 64


def test_the_vendors_own_wish_is_the_least_delay() -> None:
    patient = dataclasses.replace(OUTAGE, retry_after_seconds=45.0)
    assert decide(patient, attempt=0, max_attempts=8, uniform=longest) == Retry(45.0)
    assert decide(patient, attempt=8, max_attempts=10, uniform=longest) == Retry(256.0)
    assert decide(patient, attempt=8, max_attempts=10, uniform=shortest) == Retry(45.0)


@pytest.mark.parametrize("max_attempts", [1, 3, 8])
def test_attempts_are_used_up_after_as_many_as_the_setting_says(max_attempts: int) -> None:
    decisions = [decide(OUTAGE, attempt=attempt, max_attempts=max_attempts) for attempt in range(max_attempts)]
    assert all(isinstance(decision, Retry) for decision in decisions[:-1])
    last = decisions[-1]
    assert isinstance(last, GiveUp)
    assert last.failure.code == OUTAGE.code
    assert last.failure.message == f"no answer (given up after {max_attempts} attempts)"
    assert isinstance(
        decide(OUTAGE, attempt=max_attempts + 5, max_attempts=max_attempts), GiveUp
    )  # lost workers count too


def test_an_attempt_that_would_come_too_late_is_not_made() -> None:
    limits = {"max_attempts": 50, "max_retry_seconds": 600.0, "uniform": longest}
    assert decide(OUTAGE, attempt=5, failing_seconds=568.0, **limits) == Retry(32.0)
    late = decide(OUTAGE, attempt=5, failing_seconds=569.0, **limits)
    assert isinstance(late, GiveUp)
    assert (late.failure.code, late.failure.stage) == (OUTAGE.code, OUTAGE.stage)
    assert late.failure.message == (
        "no answer (given up after 6 attempts: the next attempt would be later than 600 s after the first failure)"
    )


def test_a_vendor_who_asks_for_more_time_than_there_is_ends_the_attempts() -> None:
    patient = dataclasses.replace(OUTAGE, retry_after_seconds=601.0)
    assert isinstance(decide(patient, attempt=0, max_attempts=8, max_retry_seconds=600.0), GiveUp)
    assert decide(patient, attempt=0, max_attempts=8, max_retry_seconds=602.0) == Retry(601.0)


def test_what_uses_up_no_attempt_waits_as_long_as_it_is_told_and_a_little_longer() -> None:
    paused = dataclasses.replace(OUTAGE, uses_attempt=False, retry_after_seconds=20.0)
    assert decide(paused, attempt=500, max_attempts=3, uniform=shortest) == Wait(20.0)
    assert decide(paused, attempt=500, max_attempts=3, uniform=longest) == Wait(31.0)
    tomorrow = dataclasses.replace(paused, retry_after_seconds=80_000.0)
    assert decide(tomorrow, attempt=0, max_attempts=3, uniform=longest) == Wait(80_060.0)


# settling: which of the store's methods is called


@dataclass
class RecordingStore:
    """Notes the calls; raises `error` in each."""

    error: Exception | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> None:
            self.calls.append((name, *arguments))
            if self.error is not None:
                raise self.error

        return call


def document_in(state: State, attempt: int = 0) -> Document:
    values = dict.fromkeys((each.name for each in dataclasses.fields(Document)), None)
    known = {"document_id": UUID(int=1), "correlation_id": UUID(int=2), "state": state, "attempt": attempt}
    return Document(**cast("dict[str, Any]", values | known))


def services_with(store: RecordingStore) -> Services:
    limits = Limits(
        max_upload_bytes=1, batch_documents=1, batch_bytes=1, max_attempts=3, claim_seconds=60, parse_poll_seconds=60
    )
    nothing = cast(Any, None)
    ports = dict.fromkeys(("objects", "partitions", "parser", "embedder", "budgets", "vendors"), nothing)
    return Services(documents=cast(Any, store), limits=limits, **ports)


def settled(error: Exception, document: Document, store: RecordingStore) -> Any:
    return settle(services_with(store), document, "claim", Asset.PARSED, error)


def test_a_transient_error_is_recorded_as_a_retry() -> None:
    store, document = RecordingStore(), document_in(State.PARSED, attempt=1)
    report = settled(TransientError("soon", retry_after_seconds=20.0), document, store)
    ((name, given, claim, failure, delay),) = store.calls
    assert (name, given, claim, failure.code, delay) == ("retry_later", document, "claim", "transient_error", 20.0)
    assert (report.verdict, report.failure) == (Verdict.WAITING, failure)
    assert report.metadata == {"retry_in_seconds": 20.0, "attempt": 2}


@pytest.mark.parametrize("attempt", [0, 2])
def test_a_call_that_was_not_made_leaves_the_attempts_as_they_are(attempt: int) -> None:
    store, document = RecordingStore(), document_in(State.PARSED, attempt=attempt)
    report = settled(VendorPausedError("paused", retry_after_seconds=20.0), document, store)
    ((name, given, claim, failure, delay, recorded),) = store.calls
    assert (name, given, claim, failure.code, recorded) == ("postpone", document, "claim", "vendor_paused", attempt)
    assert 20.0 <= delay <= 31.0
    assert (report.verdict, report.metadata["attempt"]) == (Verdict.WAITING, attempt)


@pytest.mark.parametrize(("attempt", "recorded"), [(0, 1), (2, 2)])
def test_a_call_that_was_made_in_vain_while_the_vendor_is_ill_counts_once(attempt: int, recorded: int) -> None:
    store, document = RecordingStore(), document_in(State.UPLOADED, attempt=attempt)
    error = VendorUnavailableError("no answer", retry_after_seconds=20.0)
    error.uses_attempt = False
    settled(error, document, store)
    assert (store.calls[0][0], store.calls[0][-1]) == ("postpone", recorded)


@pytest.mark.parametrize(
    ("error", "method"), [(VendorPausedError("paused"), "postpone"), (VendorUnavailableError("ill"), "dead_letter")]
)
def test_the_time_for_retries_ends_for_calls_that_were_made_only(error: IngestionError, method: str) -> None:
    error.uses_attempt = False
    long_ago = dataclasses.replace(
        document_in(State.PARSED, attempt=1), failing_since=datetime.now(UTC) - timedelta(days=30)
    )
    store = RecordingStore()
    settled(error, long_ago, store)
    assert store.calls[0][0] == method


def test_a_permanent_error_is_recorded_as_a_dead_letter() -> None:
    store, document = RecordingStore(), document_in(State.PARSED)
    report = settled(InvalidDocumentError("empty"), document, store)
    failure = Failure("invalid_document", "empty", "parsed", False)
    assert store.calls == [("dead_letter", document, "claim", failure)]
    assert (report.verdict, report.failure) == (Verdict.FAILED, failure)


def test_the_last_attempt_is_recorded_as_a_dead_letter_that_counts_the_attempts() -> None:
    store = RecordingStore()
    report = settled(VendorUnavailableError("no answer"), document_in(State.PARSED, attempt=2), store)
    ((name, _, _, failure),) = store.calls
    assert (name, failure.message) == ("dead_letter", "no answer (given up after 3 attempts)")
    assert report.verdict is Verdict.FAILED


def test_time_that_is_used_up_is_recorded_as_a_dead_letter() -> None:
    store = RecordingStore()
    began = datetime.now(UTC) - timedelta(days=1)
    document = dataclasses.replace(document_in(State.PARSED, attempt=1), failing_since=began)
    report = settled(VendorUnavailableError("no answer"), document, store)
    ((name, _, _, failure),) = store.calls
    assert (name, failure.code, report.verdict) == ("dead_letter", "vendor_unavailable", Verdict.FAILED)
    assert "later than 86400 s" in failure.message


def test_a_bug_is_logged_with_its_trace_and_recorded_without_its_text() -> None:
    store = RecordingStore()
    bug = KeyError(SECRET)
    with capture_logs() as logs:
        report = settled(bug, document_in(State.PARSED), store)
    ((name, _, _, failure),) = store.calls
    assert (name, failure.code) == ("dead_letter", "internal_error")
    assert SECRET not in repr(failure) + repr(report)
    assert [(entry["log_level"], entry["code"], entry["exc_info"]) for entry in logs] == [
        ("error", "internal_error", bug)
    ]


@pytest.mark.parametrize(
    ("state", "method"),
    [(State.PARSED, "resubmit"), (State.PARSE_QUEUED, "resubmit"), (State.UPLOADED, "retry_later")],
)
def test_a_lost_parse_job_is_submitted_again_once_it_was_submitted(state: State, method: str) -> None:
    store = RecordingStore()
    report = settled(ParseJobLostError("gone"), document_in(state), store)
    assert [call[0] for call in store.calls] == [method]
    assert report.verdict is Verdict.WAITING


def test_a_lost_claim_writes_nothing() -> None:
    store = RecordingStore()
    report = settled(ClaimLostError("another run has it"), document_in(State.PARSED), store)
    assert store.calls == []
    assert (report.verdict, report.metadata) == (Verdict.WAITING, {"note": "another run has it"})


@pytest.mark.parametrize(
    "error", [TransientError("soon"), PermanentError("never"), ParseJobLostError("gone"), KeyError()]
)
def test_a_claim_that_is_found_lost_while_an_error_is_recorded_spares_the_other_documents(error: Exception) -> None:
    store = RecordingStore(error=ClaimLostError("another run has it"))
    report = settled(error, document_in(State.PARSED), store)
    assert len(store.calls) == 1
    assert (report.verdict, report.metadata) == (Verdict.WAITING, {"note": "another run has it"})
    assert report.failure is not None
    assert report.failure.code == "claim_lost"


def test_an_outage_while_recording_reaches_the_caller() -> None:
    store = RecordingStore(error=DatabaseUnavailableError("restarting"))
    with pytest.raises(DatabaseUnavailableError):
        settled(TransientError("soon"), document_in(State.PARSED), store)
