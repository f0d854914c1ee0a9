"""A vendor that is ill: documents wait for it, without using up attempts, and go on by themselves."""

import re
from collections.abc import Callable

import pytest

from ingestion_pipeline.domain import State
from ingestion_pipeline.pipeline.report import Asset
from orchestration.pipeline_under_test import PipelineUnderTest, document_text, wait_for

OUTAGE = {"operation": "create_embeddings", "status": 503}
FAST = {"breaker_failures": 2, "breaker_open_seconds": 0.05}
SLOW = {"breaker_failures": 2, "breaker_open_seconds": 600}


@pytest.fixture
def fast(pipeline_with: Callable[..., PipelineUnderTest]) -> PipelineUnderTest:
    """A worker that tests the vendor again soon."""
    return pipeline_with(**FAST)


@pytest.fixture
def slow(pipeline_with: Callable[..., PipelineUnderTest]) -> PipelineUnderTest:
    """A worker that pauses the vendor for longer than a test takes."""
    return pipeline_with(**SLOW)


def breaker(pipeline: PipelineUnderTest, vendor: str = "openai") -> str:
    rows = pipeline.rows("select state from upload_pipeline.vendor_breakers where vendor = %s", vendor)
    return rows[0]["state"] if rows else "closed"


def processed_until(pipeline: PipelineUnderTest, condition: Callable[[], bool], what: str) -> None:
    """Run what is due, again and again, as if every waiting document were due."""

    def work() -> bool:
        pipeline.due_now()
        pipeline.process()
        return condition()

    wait_for(work, what)


def test_an_outage_longer_than_all_attempts_costs_no_document(fast: PipelineUnderTest) -> None:
    documents = [fast.upload(document_text(title)) for title in ("one", "two", "three")]
    fast.mocks.script("openai", "status", times=None, **OUTAGE)
    fast.complete()
    attempts = fast.services.limits.max_attempts
    processed_until(fast, lambda: fast.calls("openai", "create_embeddings") > 3 * attempts, "many failed calls")
    jobs = [fast.job(document_id) for document_id in documents]
    assert {job["state"] for job in jobs} == {"embedding_in_progress"}
    assert max(job["attempt"] for job in jobs) < attempts
    assert {job["last_error_code"] for job in jobs} <= {"vendor_unavailable", "vendor_paused"}

    fast.mocks.control("openai", "DELETE", "faults")
    processed_until(
        fast,
        lambda: {fast.document(document_id).state for document_id in documents} == {State.COMPLETE},
        "all are complete",
    )
    assert breaker(fast) == "closed"


def test_while_a_vendor_is_paused_documents_wait_for_it_uncalled_and_say_so(slow: PipelineUnderTest) -> None:
    blamed = slow.upload(document_text("blamed"))
    slow.mocks.script("openai", "status", times=None, **OUTAGE)
    slow.complete()
    slow.due_now()
    slow.process()
    assert breaker(slow) == "open"
    calls = slow.calls("openai", "create_embeddings")

    innocent = slow.upload(document_text("innocent"))
    slow.complete()
    for _ in range(slow.services.limits.max_attempts + 1):
        slow.due_now()
        slow.process()
    assert slow.calls("openai", "create_embeddings") == calls
    job = slow.job(innocent)
    assert (job["state"], job["attempt"], job["last_error_code"]) == ("embedding_in_progress", 0, "vendor_paused")
    assert slow.job(blamed)["attempt"] == 1
    seen = slow.observed(Asset.EMBEDDINGS, innocent)
    assert (seen["code"], seen["attempt"]) == ("vendor_paused", 0)
    assert 500 < seen["retry_in_seconds"] <= 660
    [row] = slow.rows(
        "select extract(epoch from next_attempt_at - now())::float as due_in from upload_pipeline.upload_jobs"
        " where document_id = %s",
        str(innocent),
    )
    assert 500 < row["due_in"] <= 660
    told = slow.rows(
        "select error_code from upload_pipeline.events where document_id = %s and error_code is not null",
        str(innocent),
    )
    assert told == [{"error_code": "vendor_paused"}]  # once, though it waited several times


def test_documents_that_wait_do_not_come_back_at_once(slow: PipelineUnderTest) -> None:
    slow.mocks.script("openai", "status", times=None, **OUTAGE)
    for title in ("one", "two"):
        slow.upload(document_text(title))
        slow.complete()
    for number in range(20):
        slow.upload(document_text(f"document {number}"))
    slow.complete()
    [row] = slow.rows(
        "select extract(epoch from max(next_attempt_at) - min(next_attempt_at))::float as spread,"
        " count(distinct next_attempt_at) as moments from upload_pipeline.upload_jobs"
        " where last_error_code = 'vendor_paused'"
    )
    assert row["moments"] >= 20
    assert row["spread"] > 5


def test_a_paused_embedder_stops_no_parsing(slow: PipelineUnderTest) -> None:
    slow.mocks.script("openai", "status", times=None, **OUTAGE)
    for title in ("one", "two"):
        slow.upload(document_text(title))
        slow.complete()
    assert (breaker(slow), breaker(slow, "llamacloud")) == ("open", "closed")
    parsed = slow.upload(document_text("three"))
    slow.complete()
    assert slow.document(parsed).state is State.EMBEDDING_IN_PROGRESS


def test_a_paused_parser_stops_no_embedding(slow: PipelineUnderTest) -> None:
    behind = slow.upload(document_text("behind the parser"))
    slow.mocks.script("openai", "status", times=1, **OUTAGE)
    slow.complete()
    slow.mocks.script("llamacloud", "status", operation="create_file", times=None, status=503)
    waiting = [slow.upload(document_text(title)) for title in ("one", "two", "three")]
    slow.submit()
    assert (breaker(slow, "llamacloud"), breaker(slow)) == ("open", "closed")
    assert {slow.document(document_id).state for document_id in waiting} == {State.UPLOADED}
    slow.due_now()
    slow.process()
    assert slow.document(behind).state is State.COMPLETE


def test_a_job_whose_creation_opened_the_breaker_is_found_and_not_made_twice(
    pipeline_with: Callable[..., PipelineUnderTest],
) -> None:
    pipeline = pipeline_with(breaker_failures=1, breaker_open_seconds=0.05)
    document_id = pipeline.upload(document_text("one"))
    pipeline.mocks.script("llamacloud", "status", operation="create_parse_job", status=504, when="after")
    pipeline.submit()
    assert pipeline.job(document_id)["attempt"] == 1  # so that the next try looks for the job

    def submitted() -> bool:
        pipeline.due_now()
        pipeline.submit()
        return pipeline.document(document_id).state is State.PARSE_QUEUED

    wait_for(submitted, "the document is submitted")
    assert pipeline.calls("llamacloud", "create_parse_job") == 1


def test_the_reconcile_sensor_says_which_vendor_is_paused_since_when_and_why(slow: PipelineUnderTest) -> None:
    assert "paused" not in slow.tick("reconcile_sensor").skip_message
    slow.mocks.script("openai", "status", times=None, **OUTAGE)
    for title in ("one", "two"):
        slow.upload(document_text(title))
        slow.complete()
    said = slow.tick("reconcile_sensor").skip_message
    assert re.search(r"; openai is paused until \S+ UTC, ill since \S+ UTC: vendor_unavailable$", said), said


def test_a_document_that_is_refused_pauses_nobody(fast: PipelineUnderTest) -> None:
    fast.mocks.script("openai", "status", match="refused", times=None, status=400)
    for number in range(4):
        fast.upload(document_text(f"refused {number}"))
        fast.complete()
    assert breaker(fast) == "closed"


def test_documents_over_the_limit_a_minute_wait_their_turn_without_an_attempt(
    pipeline_with: Callable[..., PipelineUnderTest],
) -> None:
    pipeline = pipeline_with(parse_requests_per_minute=12, limit_wait_seconds=0)
    documents = [pipeline.upload(document_text(f"document {number}")) for number in range(6)]
    pipeline.submit()
    jobs = [pipeline.job(document_id) for document_id in documents]
    waiting = [job for job in jobs if job["state"] == "uploaded"]
    assert 4 <= len(waiting) <= 5
    assert {(job["attempt"], job["last_error_code"]) for job in waiting} == {(0, "rate_limit_reached")}
    due = sorted(job["next_attempt_at"] for job in waiting)
    assert (due[-1] - due[0]).total_seconds() > 8  # one after the other, five seconds apart


def test_a_run_waits_for_the_token_limit_and_completes(pipeline_with: Callable[..., PipelineUnderTest]) -> None:
    pipeline = pipeline_with(embed_tokens_per_minute=60_000)  # 5,000 at once, then 1,000 a second
    documents = [pipeline.upload(document_text(f"manual {number}", paragraphs=200)) for number in range(2)]
    pipeline.complete()
    assert {pipeline.document(document_id).state for document_id in documents} == {State.COMPLETE}
    [bucket] = pipeline.rows("select level, capacity from upload_pipeline.rate_buckets where bucket = 'embed_tokens'")
    assert bucket["level"] < bucket["capacity"]
