"""The store under concurrency: many claimers, webhooks against submits, the order of locks."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from conftest import DatabaseUrls
from stored_documents import MODEL, WAITING, Walk, job, register, sql, vectors_for, wait_for

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.domain import State


@pytest.fixture
def owner(database_urls: DatabaseUrls) -> str:
    return database_urls.owner


@pytest.fixture
def store(database_urls: DatabaseUrls) -> Iterator[PostgresDocumentStore]:
    database = Database(database_urls.worker, application_name="test", max_connections=20)
    yield PostgresDocumentStore(database, actor="run-7", claim_seconds=60.0)
    database.close()


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls that start together, each in a thread; raises what one of them raises."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(timeout=20)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_expired_claims_come_back_to_one_of_many_that_look(owner: str, store: PostgresDocumentStore) -> None:
    documents = register(owner, sizes=[1] * 200)
    store.claim_documents(documents, "dead run")
    sql(owner, "update upload_pipeline.upload_jobs set claim_expires_at = now() - interval '1 s'")
    returned = [document_id for each in at_once(*[store.release_expired_claims] * 4) for document_id, _ in each]
    assert len(returned) == 200
    assert set(returned) == set(documents)
    assert sql(owner, "select distinct attempt from upload_pipeline.upload_jobs") == [(1,)]


def test_overdue_parse_jobs_are_each_asked_for_by_one_process(owner: str, store: PostgresDocumentStore) -> None:
    documents = register(owner, sizes=[1] * 60)
    for document_id in documents:
        Walk(store, document_id).submit()
    sql(owner, "update upload_pipeline.upload_jobs set parse_poll_at = now() - interval '1 s'")
    looks = at_once(*[lambda: store.overdue_parse_jobs(max_documents=20, poll_seconds=60.0)] * 6)
    assert max(len(look) for look in looks) <= 20
    asked_for = [document_id for look in looks for document_id, _ in look]
    asked_for += [document_id for document_id, _ in store.overdue_parse_jobs(max_documents=60, poll_seconds=60.0)]
    assert sorted(asked_for) == sorted(documents)


def test_a_webhook_and_the_answer_to_submitting_never_miss_each_other(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    api = Database(database_urls.api, application_name="test")

    def webhook(parse_job_id: str) -> str:
        with api.transaction(actor="webhook") as connection:
            return str(
                queries().receive_parse_event(
                    connection,
                    source="llamaparse",
                    event_id=f"event of {parse_job_id}",
                    event_type="parse.success",
                    parse_job_id=parse_job_id,
                    outcome="success",
                )["result"]
            )

    results = []
    for document_id in register(database_urls.owner, sizes=[1] * 80):
        walk = Walk(store, document_id)
        walk.take()
        parse_job_id = f"job-{document_id}"
        results += at_once(walk.submit, lambda parse_job_id=parse_job_id: webhook(parse_job_id))[1:]
    api.close()
    assert sql(
        database_urls.owner, "select distinct state, parse_outcome, claimed_by from upload_pipeline.upload_jobs"
    ) == [("parsed", "success", None)]
    assert set(results) <= {"applied", "waiting"}


RECEIVE = "select upload_pipeline.receive_parse_event('llamaparse', 'event', 'parse.success', %s, 'success')"


def test_a_submit_waits_for_a_webhook_of_its_job_that_is_not_committed_yet(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    (document_id,) = register(database_urls.owner)
    walk = Walk(store, document_id)
    walk.take()
    with closing(psycopg2.connect(database_urls.api)) as api, api.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute(RECEIVE, (f"job-{document_id}",))
        assert cursor.fetchone() == ("waiting",)
        submitting = pool.submit(walk.submit)
        wait_for(lambda: submitting.done() or sql(database_urls.owner, WAITING) != [(0,)], "the submit to wait")
        api.commit()
        submitting.result(timeout=20)
    assert job(database_urls.owner, document_id)["state"] == "parsed"


def test_a_webhook_waits_for_a_submit_of_its_job_that_is_not_committed_yet(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    (document_id,) = register(database_urls.owner)
    walk = Walk(store, document_id)
    walk.take()
    names = {"document_id": document_id, "claim": walk.claim, "parse_job_id": f"job-{document_id}"}
    with closing(psycopg2.connect(database_urls.worker)) as submit, ThreadPoolExecutor(1) as pool:
        queries().lock_parse_job(submit, parse_job_id=names["parse_job_id"])
        assert queries().record_parse_submitted(submit, poll_seconds=60.0, **names) == 1
        receiving = pool.submit(sql, database_urls.api, RECEIVE, (names["parse_job_id"],))
        wait_for(lambda: receiving.done() or sql(database_urls.owner, WAITING) != [(0,)], "the webhook to wait")
        submit.commit()
        assert receiving.result(timeout=20) == [("applied",)]
    assert job(database_urls.owner, document_id)["state"] == "parsed"


def test_a_webhook_sent_many_times_at_once_is_applied_once(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    (document_id,) = register(database_urls.owner)
    Walk(store, document_id).submit()
    results = at_once(*[lambda: sql(database_urls.api, RECEIVE, (f"job-{document_id}",))[0][0]] * 6)
    assert sorted(results) == ["applied", *["duplicate"] * 5]


@pytest.mark.parametrize("name", ["renew", "release", "claim"])
def test_statements_that_wait_for_several_jobs_lock_them_in_the_order_of_their_ids(
    database_urls: DatabaseUrls, store: PostgresDocumentStore, name: str
) -> None:
    documents = sorted(register(database_urls.owner, sizes=[1] * 6))
    store.claim_documents(documents, "mine")
    smallest = "where document_id = %s"
    # a new version of the smallest row is read last by a plain scan
    sql(
        database_urls.owner, f"update upload_pipeline.upload_jobs set next_attempt_at = now() {smallest}", documents[:1]
    )
    calls: dict[str, Callable[[], object]] = {
        "renew": lambda: store.renew_claim("mine"),
        "release": lambda: store.release_claim("mine"),
        "claim": lambda: store.claim_documents(documents, "mine"),
    }
    with closing(psycopg2.connect(database_urls.worker)) as holder, holder.cursor() as cursor:
        cursor.execute(f"select from upload_pipeline.upload_jobs {smallest} for update", documents[:1])
        thread = threading.Thread(target=calls[name])
        thread.start()
        wait_for(lambda: sql(database_urls.owner, WAITING) != [(0,)], "the statement to wait")
        # nothing else is locked yet, or the statement could wait for us and we for it
        cursor.execute("select from upload_pipeline.upload_jobs for update nowait")
        assert cursor.rowcount == 6
        holder.commit()
        thread.join(timeout=20)
    assert not thread.is_alive()
    assert (job(database_urls.owner, documents[0])["claimed_by"] is None) is (name == "release")


def test_vectors_that_another_run_copies_at_this_moment_can_be_stored(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    earlier, later = register(database_urls.owner, sizes=[1, 1])
    Walk(store, earlier).to(State.COMPLETE)
    walk = Walk(store, later)
    walk.to(State.EMBEDDING_IN_PROGRESS)
    missing = store.missing_vectors([later], MODEL)
    with closing(psycopg2.connect(database_urls.worker)) as stale:
        assert len(list(queries().reuse_vectors(stale, document_ids=[later], model=MODEL))) == 3
        with ThreadPoolExecutor(1) as pool:
            storing = pool.submit(store.store_vectors, walk.claim, missing, vectors_for(3), MODEL)
            wait_for(lambda: sql(database_urls.owner, WAITING) != [(0,)], "storing to wait")
            stale.commit()
            storing.result(timeout=20)
    assert store.vector_facts([later], MODEL)[later].vectors == 3


def test_of_a_document_that_is_deleted_while_it_is_promoted_nothing_stays(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    (document_id,) = register(database_urls.owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDINGS_STORED)
    wanted = {"document_ids": [document_id]}
    states = {"from_state": "embeddings_stored", "to_state": "complete"}
    delete = "delete from upload_pipeline.documents where document_id = %s"
    with closing(psycopg2.connect(database_urls.worker)) as promoting, ThreadPoolExecutor(1) as pool:
        assert list(queries().advance(promoting, **wanted, claim=walk.claim, **states)) == []
        deleting = pool.submit(sql, database_urls.owner, delete, (document_id,))
        wait_for(lambda: sql(database_urls.owner, WAITING) != [(0,)], "the deletion to wait")
        assert queries().promote_chunks(promoting, **wanted) == 3
        promoting.commit()
        deleting.result(timeout=20)
    for table in ("upload_jobs", "events", "document_chunk_buffer", "document_chunks", "document_vectors"):
        assert sql(database_urls.owner, f"select count(*) from upload_pipeline.{table}") == [(0,)], table


def test_many_runs_chunk_embed_and_promote_their_documents_side_by_side(
    owner: str, store: PostgresDocumentStore
) -> None:
    documents = register(owner, sizes=[1] * 16)
    at_once(*[lambda document_id=document_id: Walk(store, document_id).to(State.COMPLETE) for document_id in documents])
    assert sql(owner, "select state, count(*) from upload_pipeline.upload_jobs group by 1") == [("complete", 16)]
    assert sql(owner, "select count(*) from upload_pipeline.document_vectors") == [(48,)]


def test_every_event_names_the_actor_of_its_own_transaction(database_urls: DatabaseUrls) -> None:
    documents = register(database_urls.owner, sizes=[1] * 12)
    database = Database(database_urls.worker, application_name="test", max_connections=3)
    names = {document_id: f"run {uuid4()}" for document_id in documents}
    at_once(
        *[
            lambda document_id=document_id: Walk(
                PostgresDocumentStore(database, actor=names[document_id], claim_seconds=60.0), document_id
            ).to(State.CHUNKS_STORED)
            for document_id in documents
        ]
    )
    told = sql(
        database_urls.owner,
        "select distinct document_id, actor from upload_pipeline.events where from_state is not null",
    )
    assert dict(told) == names
    assert len(told) == 12
    database.close()
