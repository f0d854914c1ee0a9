"""Retry and cancel over HTTP: from where to where, for whom, what the history says, and where they are refused."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from conftest import DatabaseUrls
from running_api import OTHER_KEY, OWNER, RunningApi, execute, rows
from stored_documents import BAD_FILE, MODEL, OUTAGE, TEXTS, Walk

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import Lane, State
from ingestion_pipeline.errors import ClaimLostError

ACTOR = f"owner:{OWNER}"
AT_WORK = (
    State.UPLOADED,
    State.PARSE_QUEUED,
    State.PARSED,
    State.PARSE_VALIDATED,
    State.CHUNKS_STORED,
    State.EMBEDDING_IN_PROGRESS,
    State.EMBEDDINGS_STORED,
)
DEAD = (State.FAILED_PARSE, State.FAILED_CHUNKING, State.FAILED_EMBEDDING)
GOES_ON_FROM = {
    State.UPLOADED: State.UPLOADED,
    State.PARSE_QUEUED: State.UPLOADED,
    State.PARSED: State.PARSED,
    State.PARSE_VALIDATED: State.PARSE_VALIDATED,
    State.CHUNKS_STORED: State.CHUNKS_STORED,
    State.EMBEDDING_IN_PROGRESS: State.CHUNKS_STORED,
    State.EMBEDDINGS_STORED: State.CHUNKS_STORED,
    State.FAILED_PARSE: State.UPLOADED,
    State.FAILED_CHUNKING: State.PARSE_VALIDATED,
    State.FAILED_EMBEDDING: State.CHUNKS_STORED,
}


@dataclass
class Uploaded:
    """A document that was uploaded over HTTP, and the workers' way to move it."""

    api: RunningApi
    store: PostgresDocumentStore
    content: bytes = field(default_factory=lambda: b"# " + uuid4().hex.encode())

    def __post_init__(self) -> None:
        self.document_id: str = self.api.upload(self.content).json()["document_id"]
        self.walk = Walk(self.store, UUID(self.document_id))

    @property
    def path(self) -> str:
        return f"/documents/{self.document_id}"

    def now(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(self.path)
        return found

    def post(self, action: str, **options: Any) -> Any:
        return self.api.request("POST", f"{self.path}/{action}", **options)

    def lane(self) -> Lane | None:
        """Which run would take the document up now."""
        for lane in Lane:
            batch = self.store.claim_batch(lane, max_documents=10, max_bytes=1 << 30)
            if batch is not None:
                assert [str(document_id) for document_id in batch.document_ids] == [self.document_id]
                return lane
        return None


Upload = Callable[[], Uploaded]


@pytest.fixture
def upload(api: RunningApi, database_urls: DatabaseUrls) -> Iterator[Upload]:
    with closing(Database(database_urls.worker, application_name="test")) as database:
        store = PostgresDocumentStore(database, actor="worker", claim_seconds=60.0)
        yield lambda: Uploaded(api, store)


@pytest.mark.parametrize("state", DEAD)
@pytest.mark.parametrize("start_over", [False, True])
def test_a_dead_letter_goes_back_to_its_last_durable_state_or_to_the_beginning(
    upload: Upload, state: State, *, start_over: bool
) -> None:
    document = upload()
    document.walk.to(state)
    document.walk.give_back()
    target = State.UPLOADED if start_over else GOES_ON_FROM[state]

    response = document.post("retry", params={"start_over": start_over})

    assert response.status_code == 202
    seen = response.json()
    assert (seen["state"], seen["attempt"], seen["last_error"]) == (target, 0, None)
    last = document.now()["history"][-1]
    assert (last["from_state"], last["to_state"], last["actor"]) == (state, target, ACTOR)
    assert document.lane() is (Lane.SUBMIT if target is State.UPLOADED else Lane.PROCESS)


@pytest.mark.parametrize("state", [*AT_WORK, *DEAD])
def test_work_in_every_state_can_be_cancelled_and_goes_on_from_what_was_durable(upload: Upload, state: State) -> None:
    document = upload()
    document.walk.to(state)

    response = document.post("cancel")

    assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    assert response.json()["last_error"] is None
    last = document.now()["history"][-1]
    assert (last["from_state"], last["to_state"], last["actor"]) == (state, "cancelled", ACTOR)
    assert document.lane() is None
    assert document.post("retry").json()["state"] == GOES_ON_FROM[state]
    document.walk.claim = ""
    if state is State.EMBEDDINGS_STORED:  # the vectors that were paid for are still there
        assert document.store.missing_vectors([UUID(document.document_id)], MODEL) == []


def test_a_retried_document_can_go_the_whole_way(upload: Upload) -> None:
    document = upload()
    document.walk.to(State.FAILED_EMBEDDING)
    document.walk.give_back()
    document.post("retry", params={"start_over": True})
    before = document.now()["progress"]
    assert (before["pages"], before["chunks_total"], before["tokens"]) == (None, None, None)

    document.walk.claim = ""
    assert document.walk.to(State.COMPLETE).parse_round == 2
    assert document.now()["progress"]["chunks_embedded"] == len(TEXTS)


def test_a_claim_stays_with_the_run_that_has_yet_to_tell_of_the_failure(upload: Upload) -> None:
    document = upload()
    document.walk.to(State.FAILED_EMBEDDING)
    assert document.post("retry").status_code == 202
    assert document.lane() is None
    document.walk.give_back()
    assert document.lane() is Lane.PROCESS


def test_starting_over_with_a_cancelled_document_begins_at_the_beginning(upload: Upload) -> None:
    document = upload()
    document.walk.to(State.EMBEDDINGS_STORED)
    document.post("cancel")
    assert document.post("retry", params={"start_over": True}).json()["state"] == "uploaded"


def test_a_complete_document_can_start_over_and_is_served_meanwhile(
    upload: Upload, database_urls: DatabaseUrls
) -> None:
    document, served = upload(), "select count(*) from upload_pipeline.document_vectors"
    document.walk.to(State.COMPLETE)
    document.store.release_claim(document.walk.claim)
    started = document.post("retry", params={"start_over": True})
    assert (started.status_code, started.json()["state"]) == (202, "uploaded")
    assert started.json()["completed_at"] is None
    assert rows(database_urls.owner, served) == [(len(TEXTS),)]

    document.walk.claim = ""
    assert document.walk.to(State.COMPLETE).parse_round == 2
    assert rows(database_urls.owner, served) == [(len(TEXTS),)]


def test_cancelling_again_changes_nothing(upload: Upload) -> None:
    document = upload()
    first, again = document.post("cancel"), document.post("cancel")
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert [event["to_state"] for event in document.now()["history"]] == ["uploaded", "cancelled"]


def test_what_waits_for_its_next_attempt_is_due_at_once_and_keeps_its_count(upload: Upload) -> None:
    document = upload()
    document.walk.take()
    document.store.retry_later(document.walk.document(), document.walk.claim, OUTAGE, 3600.0)
    waiting = document.now()
    assert waiting["retry_path"] == f"{document.path}/retry"
    assert document.lane() is None

    retried = document.post("retry")

    assert (retried.status_code, retried.json()["state"], retried.json()["attempt"]) == (202, "uploaded", 1)
    assert retried.json()["next_attempt_at"] < waiting["next_attempt_at"]
    last = document.now()["history"][-1]
    assert (last["from_state"], last["to_state"], last["actor"]) == ("uploaded", "uploaded", ACTOR)
    assert last["message"] == "asked to try again at once"
    assert document.lane() is Lane.SUBMIT


@pytest.mark.parametrize("state", [*AT_WORK, State.COMPLETE])
def test_there_is_nothing_to_retry_where_the_work_goes_on_or_is_done(upload: Upload, state: State) -> None:
    document = upload()
    document.walk.to(state)
    assert document.now()["retry_path"] is None
    start_over = {"params": {"start_over": True}}
    for options in ({}, start_over) if state is not State.COMPLETE else ({},):
        refused = document.post("retry", **options)
        assert (refused.status_code, refused.json()["code"]) == (409, "not_retryable")
        assert state in refused.json()["detail"]
    assert document.now()["state"] == state


def test_a_document_that_waits_can_not_start_over(upload: Upload) -> None:
    document = upload()
    document.walk.take()
    document.store.retry_later(document.walk.document(), document.walk.claim, OUTAGE, 3600.0)
    assert document.post("retry", params={"start_over": True}).status_code == 409


def test_a_complete_document_can_not_be_cancelled(upload: Upload) -> None:
    document = upload()
    document.walk.to(State.COMPLETE)
    refused = document.post("cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_cancellable")
    assert document.now()["cancel_path"] is None


@pytest.mark.parametrize("action", ["retry", "cancel"])
def test_documents_of_others_and_of_nobody_are_a_404(upload: Upload, api: RunningApi, action: str) -> None:
    document = upload()
    document.walk.to(State.FAILED_PARSE)
    before = document.now()
    for response in (document.post(action, key=OTHER_KEY), api.request("POST", f"/documents/{uuid4()}/{action}")):
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert document.post(action, key=None).status_code == 401
    assert document.now() == before


def test_the_same_bytes_again_tell_how_to_retry_what_failed(upload: Upload, api: RunningApi) -> None:
    document = upload()
    document.walk.to(State.FAILED_PARSE)
    document.walk.give_back()
    again = api.upload(document.content)
    assert (again.status_code, again.json()["state"]) == (200, "failed_parse")
    assert again.json()["last_error"]["code"] == BAD_FILE.code
    assert api.request("POST", again.json()["retry_path"]).json()["state"] == "uploaded"


def test_a_run_that_holds_a_cancelled_document_writes_nothing_more(upload: Upload) -> None:
    document = upload()
    working = document.walk.to(State.EMBEDDING_IN_PROGRESS)
    missing = document.store.missing_vectors([working.document_id], MODEL)
    document.post("cancel")
    claim = document.walk.claim
    for write in (
        document.walk.store_vectors,
        lambda: document.store.embeddings_stored(claim, [working.document_id]),
        lambda: document.store.retry_later(working, claim, OUTAGE, 0.0),
        lambda: document.store.dead_letter(working, claim, BAD_FILE),
    ):
        with pytest.raises(ClaimLostError):
            write()
    assert document.store.missing_vectors([working.document_id], MODEL) == missing
    assert document.now()["state"] == "cancelled"


def test_a_late_webhook_of_a_cancelled_document_changes_nothing(upload: Upload, database_urls: DatabaseUrls) -> None:
    document = upload()
    document.walk.submit()
    job_id = f"job-{document.document_id}"
    document.post("cancel")
    receive = "select upload_pipeline.receive_parse_event('llamaparse', '{}', 'parse.success', '{}', 'success')"
    assert rows(database_urls.api, receive.format("e1", job_id)) == [("ignored",)]
    assert document.now()["state"] == "cancelled"
    document.post("retry")
    assert rows(database_urls.api, receive.format("e2", job_id)) == [("waiting",)]
    assert document.now()["state"] == "uploaded"


def test_lists_are_filtered_by_states_by_code_and_by_having_an_error(upload: Upload, api: RunningApi) -> None:
    failed, waiting, cancelled, fine = (upload() for _ in range(4))
    failed.walk.to(State.FAILED_PARSE)
    waiting.walk.take()
    waiting.store.retry_later(waiting.walk.document(), waiting.walk.claim, OUTAGE, 3600.0)
    cancelled.post("cancel")

    def listed(**parameters: Any) -> set[str]:
        return {document["document_id"] for document in api.get("/documents", params=parameters)["documents"]}

    assert listed(state=["failed_parse", "cancelled"]) == {failed.document_id, cancelled.document_id}
    assert listed(code=OUTAGE.code) == {waiting.document_id}
    assert listed(code=OUTAGE.code, state="failed_parse") == set()
    assert listed(has_error=True) == {failed.document_id, waiting.document_id}
    assert listed(has_error=False) == {cancelled.document_id, fine.document_id}
    assert listed(code="unheard_of") == set()


def test_failures_remember_when_they_began_until_the_next_step(upload: Upload, database_urls: DatabaseUrls) -> None:
    document = upload()
    document.walk.take()
    document.store.retry_later(document.walk.document(), document.walk.claim, OUTAGE, 0.0)
    execute(
        database_urls.owner, "update upload_pipeline.upload_jobs set failing_since = failing_since - interval '1 hour'"
    )
    began = document.walk.document().failing_since
    assert began is not None
    document.walk.take()
    document.store.retry_later(document.walk.document(), document.walk.claim, OUTAGE, 0.0)
    assert document.walk.document().failing_since == began
    document.walk.submit()
    assert document.walk.document().failing_since is None
