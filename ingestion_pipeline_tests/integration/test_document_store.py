"""The life of a document through the workers' store: parsing, retries, dead letters, replays, webhooks."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from conftest import DatabaseUrls
from stored_documents import (
    BAD_FILE,
    MODEL,
    OUTAGE,
    OWNER,
    Walk,
    accept_all,
    chunks_of,
    claim_one,
    events,
    everything,
    job,
    parse_result,
    parsed_text,
    register,
    sql,
    vectors_for,
)

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import Lane, ParseOutcome, State, sha256_of
from ingestion_pipeline.ports import ChunkResult

PLENTY = 1 << 40


@pytest.fixture
def owner(database_urls: DatabaseUrls) -> str:
    return database_urls.owner


@pytest.fixture
def store(database_urls: DatabaseUrls) -> Iterator[PostgresDocumentStore]:
    database = Database(database_urls.worker, application_name="test")
    yield PostgresDocumentStore(database, actor="run-7", claim_seconds=60.0)
    database.close()


def webhook(urls: DatabaseUrls, parse_job_id: str, outcome: str | None = "success", event_id: str | None = None) -> str:
    """A verified webhook as the API receives it; returns what became of it."""
    statement = "select upload_pipeline.receive_parse_event('llamaparse', %s, 'parse', %s, %s)"
    return str(sql(urls.api, statement, (event_id or str(uuid4()), parse_job_id, outcome))[0][0])


# the life of a document


def test_a_document_lives_from_upload_to_search(database_urls: DatabaseUrls, store: PostgresDocumentStore) -> None:
    (document_id,) = register(database_urls.owner)
    claim, _ = claim_one(store, Lane.SUBMIT)
    (document,) = store.load([document_id, uuid4()])
    assert (document.owner_id, document.state, document.attempt, document.parse_round) == (OWNER, State.UPLOADED, 0, 1)
    store.parse_submitted(document, claim, "job-1", 30.0)
    row = job(database_urls.owner, document_id)
    assert (row["state"], row["parse_job_id"], row["claimed_by"], row["lane"]) == ("parse_queued", "job-1", None, None)
    assert 25 < row["poll_in"] <= 30
    assert webhook(database_urls, "job-1", "partial_success") == "applied"
    claim, _ = claim_one(store, Lane.PROCESS)
    (document,) = store.load([document_id])
    assert (document.state, document.parse_outcome) == (State.PARSED, ParseOutcome.PARTIAL_SUCCESS)
    store.parsed(claim, [parse_result(document, "parsed/1")])
    (document,) = store.load([document_id])
    assert (document.parsed_key, document.parsed_sha256, document.page_count) == (
        "parsed/1",
        sha256_of(parsed_text().text),
        3,
    )
    assert (document.page_numbers, document.page_starts, document.failed_pages) == ((1, 3), (0, 16), (2,))
    store.chunks_stored(claim, [ChunkResult(document, chunks_of(document_id))])
    (document,) = store.load([document_id])
    assert (document.state, document.chunk_count, document.token_count) == (State.CHUNKS_STORED, 3, 9)
    store.embedding_started(claim, [document.document_id])
    missing = store.missing_vectors([document_id], MODEL)
    store.store_vectors(claim, missing, vectors_for(3), MODEL)
    store.embeddings_stored(claim, [store.load([document_id])[0].document_id])
    store.promote(claim, [store.load([document_id])[0].document_id], MODEL, accept_all)
    (document,) = store.load([document_id])
    assert (document.state, document.chunk_count, document.last_error_code) == (State.COMPLETE, 3, None)
    assert job(database_urls.owner, document_id)["claimed_by"] == claim  # until Dagster has been told
    store.release_claim(claim, [document_id])
    assert store.claim_batch(Lane.PROCESS, max_documents=1, max_bytes=PLENTY) is None
    summary = (
        "select completed_at is not null, embedding_model, octet_length(content_sha256) from upload_pipeline.documents"
    )
    assert sql(database_urls.owner, summary) == [(True, MODEL, 32)]


def test_a_retry_waits_for_its_time_and_remembers_why(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.take()
    store.retry_later(walk.document(), walk.claim, OUTAGE, 90.0)
    row = job(owner, document_id)
    assert (row["state"], row["attempt"], row["claimed_by"], row["claim_expires_at"]) == ("uploaded", 1, None, None)
    assert (row["last_error_code"], row["last_error_message"], row["last_error_stage"]) == (
        OUTAGE.code,
        OUTAGE.message,
        OUTAGE.stage,
    )
    assert 85 < row["due_in"] <= 90
    assert store.claim_batch(Lane.SUBMIT, max_documents=1, max_bytes=PLENTY) is None
    sql(owner, "update upload_pipeline.upload_jobs set next_attempt_at = now()")
    claim, _ = claim_one(store, Lane.SUBMIT)
    store.parse_submitted(walk.document(), claim, "job", 1.0)  # a success wipes the slate
    row = job(owner, document_id)
    assert (row["attempt"], row["last_error_code"], row["last_error_message"], row["last_error_stage"]) == (
        0,
        *[None] * 3,
    )


@pytest.mark.parametrize("state", [State.PARSE_QUEUED, State.PARSED])
def test_a_lost_parse_job_is_submitted_again_in_a_new_round(
    database_urls: DatabaseUrls, store: PostgresDocumentStore, state: State
) -> None:
    (document_id,) = register(database_urls.owner)
    walk = Walk(store, document_id)
    document = walk.to(state)
    claimed = state is State.PARSED
    store.resubmit(document, walk.claim if claimed else None, OUTAGE, 5.0)
    row = job(database_urls.owner, document_id)
    assert (row["state"], row["lane"], row["parse_round"], row["attempt"]) == ("uploaded", "submit", 2, 1)
    assert [row[name] for name in ("parse_job_id", "parse_outcome", "parse_poll_at", "claimed_by")] == [None] * 4
    assert (row["last_error_code"], 0 < row["due_in"] <= 5) == (OUTAGE.code, True)
    assert webhook(database_urls, f"job-{document_id}") == "waiting"  # the old job means nothing any more
    assert store.load([document_id])[0].state is State.UPLOADED


@pytest.mark.parametrize(
    ("failed_in", "dead_letter", "replayed_to"),
    [
        (State.UPLOADED, State.FAILED_PARSE, State.UPLOADED),
        (State.PARSED, State.FAILED_PARSE, State.UPLOADED),
        (State.PARSE_VALIDATED, State.FAILED_CHUNKING, State.PARSE_VALIDATED),
        (State.CHUNKS_STORED, State.FAILED_EMBEDDING, State.CHUNKS_STORED),
        (State.EMBEDDING_IN_PROGRESS, State.FAILED_EMBEDDING, State.CHUNKS_STORED),
        (State.EMBEDDINGS_STORED, State.FAILED_EMBEDDING, State.CHUNKS_STORED),
    ],
)
def test_a_dead_letter_keeps_its_reason_until_it_is_replayed(
    owner: str, store: PostgresDocumentStore, failed_in: State, dead_letter: State, replayed_to: State
) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    store.dead_letter(walk.to(failed_in), walk.claim, BAD_FILE)
    row = job(owner, document_id)
    assert (row["state"], row["lane"], row["attempt"], row["claimed_by"]) == (dead_letter, None, 1, walk.claim)
    assert (row["last_error_code"], row["last_error_message"]) == (BAD_FILE.code, BAD_FILE.message)
    walk.give_back()
    assert store.replay(walk.document()) is replayed_to
    row = job(owner, document_id)
    assert (row["state"], row["attempt"], row["last_error_code"], row["due_in"] <= 0) == (replayed_to, 0, None, True)
    lane = Lane.SUBMIT if replayed_to is State.UPLOADED else Lane.PROCESS
    assert row["parse_round"] == (2 if lane is Lane.SUBMIT else 1)
    assert (row["parse_job_id"] is None) is (lane is Lane.SUBMIT)
    assert claim_one(store, lane)[1] == document_id
    walk.claim = ""
    sql(owner, "update upload_pipeline.upload_jobs set claimed_by = null, claim_expires_at = null")
    if lane is Lane.SUBMIT:
        assert walk.to(State.COMPLETE).chunk_count == 3


def test_a_parse_that_failed_at_the_vendor_is_taken_up_by_the_process_lane(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    (document_id,) = register(database_urls.owner)
    Walk(store, document_id).submit()
    assert webhook(database_urls, f"job-{document_id}", "error") == "applied"
    claim, claimed = claim_one(store, Lane.PROCESS)
    (document,) = store.load([claimed])
    assert (document.state, document.parse_outcome) == (State.PARSE_QUEUED, ParseOutcome.ERROR)
    store.dead_letter(document, claim, BAD_FILE)
    assert store.load([document_id])[0].state is State.FAILED_PARSE


# webhooks


def test_a_webhook_that_overtakes_the_answer_to_submitting_is_not_lost(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    (document_id,) = register(database_urls.owner)
    walk = Walk(store, document_id)
    walk.take()
    assert webhook(database_urls, f"job-{document_id}") == "waiting"
    walk.submit()
    row = job(database_urls.owner, document_id)
    assert (row["state"], row["parse_outcome"], row["claimed_by"]) == ("parsed", "success", None)
    assert [event[1] for event in events(database_urls.owner, document_id)] == ["uploaded", "parse_queued", "parsed"]


def test_a_webhook_counts_once(database_urls: DatabaseUrls, store: PostgresDocumentStore) -> None:
    (document_id,) = register(database_urls.owner)
    Walk(store, document_id).submit()
    parse_job = f"job-{document_id}"
    assert webhook(database_urls, parse_job, None, "pending") == "ignored"
    assert job(database_urls.owner, document_id)["state"] == "parse_queued"
    assert webhook(database_urls, parse_job, "success", "done") == "applied"
    before = everything(database_urls.owner, document_id)
    assert webhook(database_urls, parse_job, "success", "done") == "duplicate"
    assert webhook(database_urls, parse_job, "error", "later") == "ignored"
    assert everything(database_urls.owner, document_id) == before
    assert sql(database_urls.owner, "select count(*) from upload_pipeline.webhook_deliveries") == [(3,)]


def test_a_webhook_for_an_unknown_job_changes_no_document(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    (document_id,) = register(database_urls.owner)
    Walk(store, document_id).submit()
    before = everything(database_urls.owner, document_id)
    assert webhook(database_urls, "a job of somebody else") == "waiting"
    assert not store.parse_ended("a job of somebody else", ParseOutcome.SUCCESS)
    assert everything(database_urls.owner, document_id) == before


def test_overdue_parse_jobs_are_asked_for_one_round_at_a_time(owner: str, store: PostgresDocumentStore) -> None:
    documents = register(owner, sizes=[1] * 5)
    for document_id in documents:
        Walk(store, document_id).submit()
    assert store.overdue_parse_jobs(max_documents=10, poll_seconds=60.0) == []
    for age, document_id in enumerate(reversed(documents[:4])):
        statement = "update upload_pipeline.upload_jobs set parse_poll_at = now() - make_interval(secs => %s) "
        sql(owner, statement + "where document_id = %s", (age, document_id))
    first = store.overdue_parse_jobs(max_documents=3, poll_seconds=60.0)
    assert {document_id for document_id, _ in first} == set(documents[:3])  # the longest overdue
    assert all(parse_job == f"job-{document_id}" for document_id, parse_job in first)
    assert 55 < job(owner, documents[0])["poll_in"] <= 60
    second = store.overdue_parse_jobs(max_documents=3, poll_seconds=60.0)
    assert [document_id for document_id, _ in second] == [documents[3]]
    assert store.parse_ended(f"job-{documents[0]}", ParseOutcome.SUCCESS)
    assert not store.parse_ended(f"job-{documents[0]}", ParseOutcome.SUCCESS)
    sql(owner, "update upload_pipeline.upload_jobs set parse_poll_at = now() - interval '1 s'")
    left = {document_id for document_id, _ in store.overdue_parse_jobs(max_documents=10, poll_seconds=60.0)}
    assert left == set(documents[1:])


def test_loading_nothing_gives_nothing(store: PostgresDocumentStore) -> None:
    assert store.load([]) == []
    assert store.load([UUID(int=0)]) == []
