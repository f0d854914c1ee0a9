"""The ledger of what calls cost: committed with what they paid for, exact, each owner's own."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from conftest import DatabaseUrls
from running_api import OWNER as SEARCHER
from running_api import RunningApi
from stored_documents import MODEL, OTHER_OWNER, OWNER, Walk, parse_result, register, sql, vectors_for

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import State
from ingestion_pipeline.errors import ClaimLostError
from ingestion_pipeline.stages.usage import embedding_call, embedding_cost_usd, parsing_call


@pytest.fixture
def store(database_urls: DatabaseUrls) -> Iterator[PostgresDocumentStore]:
    database = Database(database_urls.worker, application_name="test", setting="INGEST_WORKER_DATABASE_URL")
    yield PostgresDocumentStore(database, actor="run-7", claim_seconds=60.0)
    database.close()


def ledger(urls: DatabaseUrls) -> list[tuple[Any, ...]]:
    return sql(
        urls.owner,
        "select provider, operation, model, owner_id, document_id, tokens, pages, cost_usd, seconds, outcome "
        "from upload_pipeline.provider_usage order by usage_id",
    )


def test_a_request_for_documents_of_two_owners_is_shared_exactly(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    walks = [Walk(store, register(database_urls.owner, owner=owner)[0]) for owner in (OWNER, OTHER_OWNER)]
    walks[0].claim = walks[1].claim = "one run"
    for walk in walks:
        walk.to(State.EMBEDDING_IN_PROGRESS)
    missing = store.missing_vectors([walk.document_id for walk in walks], MODEL)
    bill = embedding_call(MODEL, 1001, 0.25, missing)
    store.store_vectors("one run", missing, vectors_for(len(missing)), MODEL, bill)
    rows = ledger(database_urls)
    assert {(row[3], row[4]) for row in rows} == {
        (owner, walk.document_id) for owner, walk in zip((OWNER, OTHER_OWNER), walks, strict=True)
    }
    assert {row[:3] + row[8:] for row in rows} == {("openai", "embed", MODEL, 0.25, "ok")}
    assert sorted(row[5] for row in rows) == [500, 501]
    assert sum(row[7] for row in rows) == embedding_cost_usd(MODEL, 1001)
    calls = "select count(distinct call_id), count(distinct correlation_id) from upload_pipeline.provider_usage"
    assert sql(database_urls.owner, calls) == [(1, 2)]


def test_vectors_that_are_not_stored_leave_no_entry(database_urls: DatabaseUrls, store: PostgresDocumentStore) -> None:
    walk = Walk(store, register(database_urls.owner)[0])
    walk.to(State.EMBEDDING_IN_PROGRESS)
    missing = store.missing_vectors([walk.document_id], MODEL)
    with pytest.raises(ClaimLostError):
        store.store_vectors("another run", missing, vectors_for(3), MODEL, embedding_call(MODEL, 9, 0.1, missing))
    assert ledger(database_urls) == []


def test_a_parsed_document_is_billed_by_the_page(database_urls: DatabaseUrls, store: PostgresDocumentStore) -> None:
    walk = Walk(store, register(database_urls.owner)[0])
    document = walk.to(State.PARSED)
    bill = parsing_call("cost_effective", walk.document_id, 3)
    store.parsed(walk.claim, [parse_result(document, "parsed/x", bill=bill)])
    assert ledger(database_urls) == [
        ("llamacloud", "parse", "cost_effective", OWNER, walk.document_id, 0, 3, Decimal("0.01125"), None, "ok")
    ]
    with pytest.raises(ClaimLostError):  # its state has moved on: nothing is billed twice
        store.parsed(walk.claim, [parse_result(document, "parsed/x", bill=bill)])
    assert len(ledger(database_urls)) == 1


def test_an_entry_outlives_its_document(database_urls: DatabaseUrls, store: PostgresDocumentStore) -> None:
    Walk(store, register(database_urls.owner)[0]).to(State.EMBEDDINGS_STORED)
    sql(database_urls.owner, "delete from upload_pipeline.documents")
    assert len(ledger(database_urls)) == 1


def test_a_search_is_billed_to_who_searches(api: RunningApi, database_urls: DatabaseUrls) -> None:
    api.get("/search", params={"q": "three little words"})
    assert [row[:7] for row in ledger(database_urls)] == [("openai", "embed_query", MODEL, SEARCHER, None, 3, 0)]


def test_what_was_spent_today_counts_all_owners_since_midnight_utc(
    database_urls: DatabaseUrls, store: PostgresDocumentStore
) -> None:
    for owner in (OWNER, OTHER_OWNER, UUID(int=9)):
        Walk(store, register(database_urls.owner, owner=owner)[0]).to(State.EMBEDDINGS_STORED)
    yesterday = "date_trunc('day', now(), 'UTC') - interval '1 microsecond'"
    sql(
        database_urls.owner, f"update upload_pipeline.provider_usage set at = {yesterday} where owner_id = %s", (OWNER,)
    )
    assert sql(database_urls.api, "select upload_pipeline.spent_today()") == [(2 * embedding_cost_usd(MODEL, 9),)]
