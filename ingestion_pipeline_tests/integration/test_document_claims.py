"""Claims on documents: what a run takes, keeps, loses, and may no longer write."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from conftest import DatabaseUrls
from stored_documents import (
    BAD_FILE,
    MODEL,
    OUTAGE,
    Walk,
    accept_all,
    chunks_of,
    claim_one,
    events,
    everything,
    job,
    parse_result,
    register,
    sql,
    vectors_for,
    wait_for,
)

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import Lane, State
from ingestion_pipeline.errors import ClaimLostError
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


def expire_claims(owner: str) -> None:
    sql(
        owner, "update upload_pipeline.upload_jobs set claim_expires_at = now() - interval '1 s' where claimed_by <> ''"
    )


def test_a_batch_holds_the_longest_waiting_documents_up_to_a_number(owner: str, store: PostgresDocumentStore) -> None:
    documents = register(owner, sizes=[10] * 5)
    batch = store.claim_batch(Lane.SUBMIT, max_documents=3, max_bytes=PLENTY)
    assert batch is not None
    assert set(batch.document_ids) == set(documents[:3])
    assert [document.document_id for document in store.load(batch.document_ids)] == documents[:3]
    assert {job(owner, document_id)["claimed_by"] for document_id in documents[:3]} == {batch.claim}
    assert 55 < job(owner, documents[0])["expires_in"] <= 60
    assert job(owner, documents[3])["claimed_by"] is None
    rows = sql(
        owner, "select batch_id, lane, document_count, failed_count, finished_at from upload_pipeline.ingestion_batches"
    )
    assert rows == [(batch.batch_id, "submit", 3, None, None)]
    store.finish_batch(batch.batch_id, 2)
    assert sql(owner, "select failed_count, finished_at is not null from upload_pipeline.ingestion_batches") == [
        (2, True)
    ]


def test_a_batch_ends_with_the_document_that_reaches_the_number_of_bytes(
    owner: str, store: PostgresDocumentStore
) -> None:
    documents = register(owner, sizes=[60, 60, 60, 60])
    taken = [store.claim_batch(Lane.SUBMIT, max_documents=10, max_bytes=100) for _ in range(3)]
    assert [set(batch.document_ids) if batch else None for batch in taken] == [
        set(documents[:2]),
        set(documents[2:]),
        None,
    ]


def test_a_document_larger_than_a_batch_is_claimed_alone(owner: str, store: PostgresDocumentStore) -> None:
    documents = register(owner, sizes=[10_000, 1])
    first, second = (store.claim_batch(Lane.SUBMIT, max_documents=10, max_bytes=100) for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.document_ids, second.document_ids) == ((documents[0],), (documents[1],))


def test_nothing_due_gives_no_batch_and_no_row_of_one(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    sql(owner, "update upload_pipeline.upload_jobs set next_attempt_at = now() + interval '1 hour'")
    assert store.claim_batch(Lane.SUBMIT, max_documents=10, max_bytes=PLENTY) is None
    assert store.claim_batch(Lane.PROCESS, max_documents=10, max_bytes=PLENTY) is None
    assert sql(owner, "select count(*) from upload_pipeline.ingestion_batches") == [(0,)]
    assert job(owner, document_id)["claimed_by"] is None


def test_active_batches_are_the_claims_of_a_lane(owner: str, store: PostgresDocumentStore) -> None:
    register(owner, sizes=[1] * 4)
    assert store.active_batches(Lane.SUBMIT) == 0
    for _ in range(2):
        store.claim_batch(Lane.SUBMIT, max_documents=2, max_bytes=PLENTY)
    assert (store.active_batches(Lane.SUBMIT), store.active_batches(Lane.PROCESS)) == (2, 0)


def test_due_documents_are_those_that_a_claim_would_take(owner: str, store: PostgresDocumentStore) -> None:
    later, *_ = register(owner, sizes=[16, 8, 4, 2, 1])
    sql(
        owner,
        "update upload_pipeline.upload_jobs set next_attempt_at = now() + interval '1 hour' where document_id = %s",
        (later,),
    )
    assert store.due_documents(Lane.SUBMIT, most=10) == (4, 8 + 4 + 2 + 1)
    assert store.due_documents(Lane.SUBMIT, most=3) == (3, 8 + 4 + 2)
    assert store.due_documents(Lane.PROCESS, most=10) == (0, 0)
    store.claim_batch(Lane.SUBMIT, max_documents=3, max_bytes=PLENTY)
    assert store.due_documents(Lane.SUBMIT, most=10) == (1, 1)


def test_each_document_may_count_more_than_its_bytes(owner: str, store: PostgresDocumentStore) -> None:
    register(owner, sizes=[10] * 4)
    taken = [store.claim_batch(Lane.SUBMIT, max_documents=9, max_bytes=60, document_bytes=20) for _ in range(2)]
    assert [len(batch.document_ids) for batch in taken if batch] == [2, 2]


def test_given_documents_are_claimed_unless_another_run_has_them(owner: str, store: PostgresDocumentStore) -> None:
    free, taken, expired, waiting = register(owner, sizes=[1] * 4)
    Walk(store, waiting).submit()
    store.claim_documents([expired], "dead run")
    expire_claims(owner)
    store.claim_documents([taken], "other run")
    wanted = [free, taken, expired, waiting, uuid4()]
    assert set(store.claim_documents(wanted, "mine")) == {free, expired}
    assert set(store.claim_documents(wanted, "mine")) == {free, expired}  # again: they are mine
    assert store.claim_documents([], "mine") == []


def test_a_claim_is_renewed_and_given_back_whole_or_in_part(owner: str, store: PostgresDocumentStore) -> None:
    documents = register(owner, sizes=[1] * 3)
    store.claim_documents(documents, "mine")
    sql(owner, "update upload_pipeline.upload_jobs set claim_expires_at = now() + interval '1 s'")
    assert set(store.renew_claim("mine")) == set(documents)
    assert min(job(owner, document_id)["expires_in"] for document_id in documents) > 55
    store.release_claim("mine", [documents[0]])
    assert set(store.renew_claim("mine")) == set(documents[1:])
    store.release_claim("mine", [])
    store.release_claim("another")
    assert set(store.renew_claim("mine")) == set(documents[1:])
    store.release_claim("mine")
    assert store.renew_claim("mine") == []


def test_expired_claims_come_back_as_a_failed_attempt(owner: str, store: PostgresDocumentStore) -> None:
    lost, alive = register(owner, sizes=[1, 1])
    store.claim_documents([lost], "dead run")
    expire_claims(owner)
    store.claim_documents([alive], "living run")
    assert store.release_expired_claims() == [(lost, State.UPLOADED)]
    row = job(owner, lost)
    assert (row["claimed_by"], row["claim_expires_at"], row["attempt"]) == (None, None, 1)
    assert (row["last_error_code"], row["last_error_stage"]) == ("worker_lost", "submit")
    assert events(owner, lost)[-1] == ("uploaded", "uploaded", "run-7", 1, "worker_lost")
    assert job(owner, alive)["claimed_by"] == "living run"
    assert store.release_expired_claims() == []
    # not at once: it may kill the next run too
    assert store.claim_batch(Lane.SUBMIT, max_documents=10, max_bytes=1 << 30) is None
    sql(owner, "update upload_pipeline.upload_jobs set next_attempt_at = now() where document_id = %s", [lost])
    assert claim_one(store, Lane.SUBMIT)[1] == lost


@pytest.mark.parametrize("state", [State.COMPLETE, State.FAILED_PARSE, State.FAILED_CHUNKING, State.FAILED_EMBEDDING])
def test_expired_claims_of_settled_documents_come_back_as_they_were(
    owner: str, store: PostgresDocumentStore, state: State
) -> None:
    (document_id,) = register(owner)
    before = Walk(store, document_id).to(state)
    assert job(owner, document_id)["claimed_by"]
    history = events(owner, document_id)
    expire_claims(owner)
    assert store.release_expired_claims() == [(document_id, state)]
    assert job(owner, document_id)["claimed_by"] is None
    assert store.load([document_id]) == [before]
    assert events(owner, document_id) == history


def test_expired_claims_come_back_in_portions_the_oldest_first(owner: str, store: PostgresDocumentStore) -> None:
    documents = register(owner, sizes=[1] * 1003)
    store.claim_documents(documents, "dead run")
    expire_claims(owner)
    sql(
        owner,
        "update upload_pipeline.upload_jobs set claim_expires_at = now() - interval '1 second' "
        "where document_id = any(%s)",
        (documents[:3],),
    )
    released = {document_id for document_id, _ in store.release_expired_claims()}
    assert len(released) == 1000
    assert {document_id for document_id, _ in store.release_expired_claims()} == {*documents} - released
    assert released.isdisjoint(documents[:3])


WRITES: dict[str, tuple[State, Callable[[PostgresDocumentStore, Any, str], object]]] = {
    "parse_submitted": (
        State.UPLOADED,
        lambda store, document, claim: store.parse_submitted(document, claim, "j", 1.0),
    ),
    "parsed": (
        State.PARSED,
        lambda store, document, claim: store.parsed(claim, [parse_result(document, "key")]),
    ),
    "chunks_stored": (
        State.PARSE_VALIDATED,
        lambda store, document, claim: store.chunks_stored(
            claim, [ChunkResult(document, chunks_of(document.document_id))]
        ),
    ),
    "embedding_started": (
        State.CHUNKS_STORED,
        lambda store, document, claim: store.embedding_started(claim, [document.document_id]),
    ),
    "store_vectors": (
        State.EMBEDDING_IN_PROGRESS,
        lambda store, document, claim: store.store_vectors(
            claim, store.missing_vectors([document.document_id], MODEL), vectors_for(3), MODEL
        ),
    ),
    "embeddings_stored": (
        State.EMBEDDING_IN_PROGRESS,
        lambda store, document, claim: store.embeddings_stored(claim, [document.document_id]),
    ),
    "promote": (
        State.EMBEDDINGS_STORED,
        lambda store, document, claim: store.promote(claim, [document.document_id], MODEL, accept_all),
    ),
    "retry_later": (
        State.PARSE_VALIDATED,
        lambda store, document, claim: store.retry_later(document, claim, OUTAGE, 1.0),
    ),
    "resubmit": (State.PARSED, lambda store, document, claim: store.resubmit(document, claim, OUTAGE, 1.0)),
    "resubmit of nobody's": (State.PARSED, lambda store, document, _: store.resubmit(document, None, OUTAGE, 1.0)),
    "dead_letter": (State.PARSED, lambda store, document, claim: store.dead_letter(document, claim, BAD_FILE)),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_under_a_lost_claim_is_refused_and_changes_nothing(
    owner: str, store: PostgresDocumentStore, name: str
) -> None:
    state, write = WRITES[name]
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    document = walk.to(state)
    expire_claims(owner)
    assert store.claim_documents([document_id], "the next run") == [document_id]
    before = everything(owner, document_id)
    with pytest.raises(ClaimLostError):
        write(store, document, walk.claim)
    assert everything(owner, document_id) == before
    if name != "resubmit of nobody's":
        write(store, document, "the next run")  # it was the claim alone
        assert everything(owner, document_id) != before


def test_a_step_from_a_state_that_is_over_is_refused(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    earlier = walk.to(State.PARSED)
    store.parsed(walk.claim, [parse_result(earlier, "key")])
    before = everything(owner, document_id)
    for late in (
        lambda: store.parsed(walk.claim, [parse_result(earlier, "other key")]),
        lambda: store.dead_letter(earlier, walk.claim, BAD_FILE),
        lambda: store.resubmit(earlier, walk.claim, OUTAGE, 0.0),
        lambda: store.replay(replace(earlier, state=State.FAILED_PARSE)),
    ):
        with pytest.raises(ClaimLostError):
            late()
    assert everything(owner, document_id) == before


def test_what_is_settled_when_a_run_gives_everything_back_is_for_another_run_to_tell(
    owner: str, store: PostgresDocumentStore
) -> None:
    settled, at_work = register(owner, sizes=[1, 1])
    walk = Walk(store, settled)
    walk.to(State.COMPLETE)
    store.claim_documents([at_work], walk.claim)
    store.release_claim(walk.claim)
    assert job(owner, at_work)["claimed_by"] is None
    assert store.release_expired_claims() == [(settled, State.COMPLETE)]
    assert job(owner, settled)["claimed_by"] is None


def test_what_a_run_lost_while_it_stood_still_is_noticed_before_anything_is_paid_for(
    owner: str, database_urls: DatabaseUrls
) -> None:
    database = Database(database_urls.worker, application_name="test")
    store = PostgresDocumentStore(database, actor="standing", claim_seconds=0.3)
    lost, kept = register(owner, sizes=[10] * 2)
    store.claim_documents([lost, kept], "standing")
    store.renew_claim("standing")
    store.expect_held("standing", [lost, kept])
    wait_for(lambda: store.claim_documents([lost], "other"), "another run takes what has expired")
    for _ in range(2):  # asking again forgets nothing
        with pytest.raises(ClaimLostError):
            store.expect_held("standing", [lost, kept])
        store.expect_held("standing", [kept])
        store.renew_claim("standing")
    database.close()


def test_what_a_run_holds_is_not_asked_for_while_its_lease_lasts(owner: str, store: PostgresDocumentStore) -> None:
    [document_id] = register(owner)
    store.claim_documents([document_id], "run-7")
    store.renew_claim("run-7")
    expire_claims(owner)
    store.expect_held("run-7", [document_id])
    assert job(owner, document_id)["expires_in"] < 0, "the database was not asked, which would have renewed the claim"
    store.release_claim("run-7")
    with pytest.raises(ClaimLostError):
        store.expect_held("run-7", [document_id])
