"""Documents under everything that can happen to them, in any order, on the real database.

Runs that live, die and come late, webhooks early, late and twice, polls, cancellations, retries: whatever the order,
each document's history is a path of allowed transitions, nobody writes without a claim, nothing is stuck, and every
document can be brought to its end.

An ordinary run tries the same orders each time; INGEST_TEST_EXAMPLES=1000 tries so many others.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from conftest import PostgresServer
from document_events import TEXT, Notice, Places, Run, bring_to, parse_job_of, step
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stored_documents import BAD_FILE, OUTAGE, OWNER, register

from ingestion_pipeline.domain import (
    DEAD_LETTERS,
    HAPPY_PATH,
    SETTLED,
    TRANSITIONS,
    Lane,
    ParseOutcome,
    State,
)
from ingestion_pipeline.errors import ClaimLostError, NotCancellableError, NotRetryableError

PLENTY = 1 << 40
JOBS = """
    select
        j.*,
        (select count(*) from upload_pipeline.document_chunks as c where c.document_id = j.document_id) as chunks,
        (select count(*) from upload_pipeline.document_vectors as v where v.document_id = j.document_id) as vectors
    from upload_pipeline.upload_jobs as j
"""
MOST_DOCUMENTS = 2
BEGINNINGS = st.sampled_from(HAPPY_PATH[:-2])
STEPS = st.integers(0, 2)
THEN = st.sampled_from(["fails for good", "goes on", "dies", "fails for now", "ends", "waits", "misses the parse job"])
OUTCOMES = st.sampled_from([*ParseOutcome, None])


class DocumentLives(RuleBasedStateMachine):
    """`places` is given by the test; every document that is left at the end is brought to completion."""

    places: Places
    documents = Bundle("documents")
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.store, self.catalogue = self.places.store, self.places.catalogue
        self.known: list[UUID] = []
        self.jobs: list[dict[str, Any]] = []  # as they are between two rules

    @initialize(target=documents, state=BEGINNINGS)
    def begin(self, state: State) -> Any:
        return self.upload(state)

    @precondition(lambda self: len(self.known) < MOST_DOCUMENTS)
    @rule(target=documents, state=BEGINNINGS)
    def upload(self, state: State) -> Any:
        """A document that has come as far as `state` by itself."""
        [document_id] = register(self.places.urls.owner)
        self.known.append(document_id)
        bring_to(state, document_id, self.places)
        return document_id

    # runs

    @precondition(lambda self: any(job["lane"] and not job["claimed_by"] for job in self.jobs))
    @rule(target=runs, lane=st.sampled_from(list(Lane)), steps=STEPS, then=THEN)
    def work_on_what_is_due(self, lane: Lane, steps: int, then: str) -> Any:
        """A sensor's run."""
        batch = self.store.claim_batch(lane, max_documents=2, max_bytes=PLENTY)
        runs = [Run(batch.claim, document) for document in self.store.load(batch.document_ids)] if batch else []
        for run in runs:
            self.come_back(run, steps, then)
        return multiple(*runs)

    @rule(target=runs, document_id=documents, steps=STEPS, then=THEN)
    def materialise(self, document_id: UUID, steps: int, then: str) -> Any:
        """An operator's run in Dagster, which takes up what is settled too."""
        before, claim = self.places.job(document_id), f"operator-{uuid4()}"
        held = self.store.claim_documents([document_id], claim)
        is_free = before["claimed_by"] is None or before["claim_expires_at"] < datetime.now(UTC)
        assert bool(held) <= is_free
        if before["state"] == State.CANCELLED or (held and before["state"] in DEAD_LETTERS):
            self.store.replay(*self.store.load([document_id]))
        held = self.store.claim_documents([document_id], claim)
        runs = [Run(claim, document) for document in self.store.load(held)]
        for run in runs:
            self.come_back(run, steps, then)
        return multiple(*runs)

    @rule(run=runs, steps=STEPS, then=THEN)
    def come_back(self, run: Run, steps: int, then: str) -> None:
        """A run that may have lost the document, and does not know."""
        for _ in range(steps):
            if run.is_at_work and run.document.state is not State.PARSE_QUEUED:
                self._writes(run, lambda: step(run, self.store))
        document, claim = run.document, run.claim
        if then == "dies":
            expired = "update upload_pipeline.upload_jobs set claim_expires_at = now() - interval '1 s' "
            self.places.rows(expired + "where claimed_by = %s", claim)
        elif then == "ends":
            self.store.release_claim(claim, [document.document_id])
        elif then == "fails for now" and run.is_at_work:
            self._writes(run, lambda: self.store.retry_later(document, claim, OUTAGE, 60.0))
        elif then == "waits" and run.is_at_work:
            self._writes(run, lambda: self.store.postpone(document, claim, OUTAGE, 60.0, document.attempt))
        elif then == "fails for good" and run.is_at_work:
            self._writes(run, lambda: self.store.dead_letter(document, claim, BAD_FILE))
        elif then == "misses the parse job" and document.state in (State.PARSE_QUEUED, State.PARSED):
            self._writes(run, lambda: self.store.resubmit(document, claim, OUTAGE, 60.0))

    # the parser

    @rule(document_id=documents, outcome=OUTCOMES, is_late=st.booleans(), times=st.integers(1, 2))
    def hear_from_the_parser(
        self, document_id: UUID, outcome: ParseOutcome | None, *, is_late: bool, times: int
    ) -> None:
        """Early before the job is submitted, late after its round is over."""
        job_id = parse_job_of(document_id, self.places.job(document_id)["parse_round"] - is_late)
        notice = Notice(str(uuid4()), job_id, outcome)
        self._receive(document_id, notice)
        if times > 1:
            before = self.places.job(document_id)
            assert self.catalogue.receive_parse_event("llamaparse", notice) == "duplicate"
            assert self.places.job(document_id) == before

    @precondition(lambda self: any(job["state"] == State.PARSE_QUEUED for job in self.jobs))
    @rule(outcome=OUTCOMES, is_lost=st.booleans())
    def poll(self, outcome: ParseOutcome | None, *, is_lost: bool) -> None:
        for document_id, job_id in self.store.overdue_parse_jobs(max_documents=9, poll_seconds=60.0):
            [document] = self.store.load([document_id])
            assert (document.state, document.parse_job_id) == (State.PARSE_QUEUED, job_id)
            if is_lost:
                self.store.resubmit(document, None, OUTAGE, 0.0)
            elif outcome:
                assert self.store.parse_ended(job_id, outcome)

    # people and time

    @rule(document_id=documents)
    def cancel(self, document_id: UUID) -> None:
        if self.places.job(document_id)["state"] == State.COMPLETE:
            with pytest.raises(NotCancellableError):
                self.catalogue.cancel(OWNER, document_id)
        else:
            assert self.catalogue.cancel(OWNER, document_id).state is State.CANCELLED

    @precondition(lambda self: any(job["last_error_code"] or job["cancelled_from"] for job in self.jobs))
    @rule(document_id=documents, start_over=st.booleans())
    def retry(self, document_id: UUID, *, start_over: bool) -> None:
        before = self.catalogue.get(OWNER, document_id)
        is_settled = before.state in DEAD_LETTERS | {State.CANCELLED} or (start_over and before.state is State.COMPLETE)
        if is_settled or (before.is_retryable and not start_over):
            after = self.catalogue.retry(OWNER, document_id, start_over=start_over).state
            assert (after is before.state) is not is_settled
            assert after is State.UPLOADED or not start_over
        else:
            with pytest.raises(NotRetryableError):
                self.catalogue.retry(OWNER, document_id, start_over=start_over)

    @precondition(
        lambda self: any(job["last_error_code"] or job["claimed_by"] or job["cancelled_from"] for job in self.jobs)
    )
    @rule()
    def time_passes(self) -> None:
        """Whatever waits is due, and what fell between is looked after."""
        self.places.rows(
            "update upload_pipeline.upload_jobs set next_attempt_at = now(), "
            "parse_poll_at = case when parse_poll_at is not null then now() end; "
            "update upload_pipeline.cancellations set due_at = now()"
        )
        for document_id, state in self.store.release_expired_claims():
            assert self.places.job(document_id)["state"] == state
        for cancellation in self.store.due_cancellations(max_documents=9, again_seconds=60.0):
            assert cancellation.document_id in self.known
            self.store.settle_cancellation(cancellation)

    # what always holds

    @invariant()
    def histories_are_paths_of_allowed_transitions(self) -> None:
        last: dict[UUID, str] = {}
        for event in self.places.rows("select * from upload_pipeline.events order by event_id"):
            assert event["actor"]
            before, after = event["from_state"], event["to_state"]
            assert before == last.get(event["document_id"])
            assert before in (None, after) or (before, after) in TRANSITIONS
            last[event["document_id"]] = after
        jobs = self.places.rows("select document_id, state from upload_pipeline.upload_jobs")
        assert {job["document_id"]: job["state"] for job in jobs} == last

    @invariant()
    def jobs_make_sense_and_nothing_is_stuck(self) -> None:
        self.jobs = self.places.rows(JOBS)
        for job in self.jobs:
            waits_for_parser = job["state"] == State.PARSE_QUEUED and job["parse_outcome"] is None
            assert job["state"] in SETTLED or waits_for_parser or job["lane"]
            assert not (waits_for_parser or job["state"] == State.CANCELLED) or job["claimed_by"] is None
            assert (job["attempt"] == 0) is (job["failing_since"] is None)
            assert (job["state"] == State.CANCELLED) is (job["cancelled_from"] is not None)
            is_complete = job["state"] == State.COMPLETE
            assert job["chunks"] == (len(TEXT) if is_complete else 0)
            assert job["vectors"] <= len(TEXT)  # those that are paid for stay, whatever becomes of the rest
            assert job["vectors"] == len(TEXT) or not is_complete

    def teardown(self) -> None:
        """Whatever happened, each document can be brought to its end."""
        try:
            for document_id in self.known:
                bring_to(State.COMPLETE, document_id, self.places)
        finally:
            self.places.rows("delete from upload_pipeline.documents")

    def _writes(self, run: Run, write: Any) -> None:
        """A write succeeds if the run still has the document, and changes nothing if it has not."""
        document_id = run.document.document_id
        before = self.places.job(document_id)
        if before["claimed_by"] == run.claim:
            write()
            [run.document] = self.store.load([document_id])
        else:
            with pytest.raises(ClaimLostError):
                write()
            assert self.places.job(document_id) == before

    def _receive(self, document_id: UUID, notice: Notice) -> None:
        """A webhook moves the document that waits for its job, and nothing else."""
        before = self.places.job(document_id)
        result = self.catalogue.receive_parse_event("llamaparse", notice)
        is_awaited = before["state"] == State.PARSE_QUEUED and before["parse_outcome"] is None
        if notice.outcome is None:
            assert result == "ignored"
        elif before["parse_job_id"] != notice.job_id:
            assert result == "waiting"
        else:
            assert result == ("applied" if is_awaited else "ignored")
        if result != "applied":
            assert self.places.job(document_id) == before


@pytest.fixture
def places(postgres_server: PostgresServer) -> Iterator[Places]:
    urls = postgres_server.create_database()
    with closing(Places(urls)) as found:
        yield found
    postgres_server.drop_database(urls.name)


def test_whatever_happens_to_documents_none_is_lost_stuck_or_out_of_order(places: Places) -> None:
    others = os.environ.get("INGEST_TEST_EXAMPLES")
    lives = type("Lives", (DocumentLives,), {"places": places})
    run_state_machine_as_test(
        lives,
        settings=settings(
            max_examples=int(others or 30),
            stateful_step_count=25,
            deadline=None,
            derandomize=not others,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
