"""Search with and without a vector index: the same chunks, each owner's own, however few they are among all."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from conftest import DatabaseUrls
from stored_documents import MODEL, OTHER_OWNER, OWNER, Walk, register, sql, vectors_for
from vector_library import add_vectors, analyse, topical_vectors

from ingestion_pipeline.adapters.postgres.catalogue import PostgresCatalogue
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.adapters.postgres.vector_index import BuildOptions, VectorIndex
from ingestion_pipeline.domain import State

THIRD_OWNER = UUID(int=3)
SHARES = {OWNER: 4800, OTHER_OWNER: 1185, THIRD_OWNER: 15}
QUERIES = topical_vectors(20, seed=9)


@dataclass
class Library:
    """6,000 vectors of three owners; `chunks` and `vectors` by owner."""

    urls: DatabaseUrls
    catalogue: PostgresCatalogue
    chunks: dict[UUID, list[UUID]] = field(default_factory=dict)
    vectors: dict[UUID, Any] = field(default_factory=dict)

    def found(self, owner: UUID, query: Any, limit: int = 10) -> list[UUID]:
        return [hit.chunk_id for hit in self.catalogue.search(owner, vector=query, model=MODEL, limit=limit)]

    def nearest(self, owner: UUID, query: Any, limit: int = 10) -> list[UUID]:
        """What an exact search has to find."""
        order = np.argsort(-(self.vectors[owner] @ query), kind="stable")[:limit]
        return [self.chunks[owner][position] for position in order]

    def recall(self, owner: UUID, limit: int = 10) -> float:
        """Which share of the nearest chunks searches find."""
        found = [set(self.found(owner, query, limit)) & set(self.nearest(owner, query, limit)) for query in QUERIES]
        return sum(map(len, found)) / (len(QUERIES) * limit)

    def plan(self, owner: UUID, *, exact: bool = False) -> str:
        """How the server would search."""
        database = Database(self.urls.api, application_name="test")
        with database.transaction(actor="test", owner_id=owner) as connection, connection.cursor() as cursor:
            queries().prepare_search(connection, candidates="100")
            text = str(topical_vectors(1, seed=5)[0].tolist())
            parameters = {"owner_id": owner, "query": text, "model": MODEL, "limit": 10, "is_exact": exact}
            cursor.execute("explain " + queries().search.sql, parameters)
            plan = "\n".join(row[0] for row in cursor.fetchall())
        database.close()
        return plan


@pytest.fixture(scope="module")
def library(postgres_server: Any) -> Iterator[Library]:
    urls = postgres_server.create_database()
    database = Database(urls.api, application_name="test")
    library = Library(urls, PostgresCatalogue(database))
    for number, (owner, count) in enumerate(SHARES.items()):
        library.vectors[owner] = topical_vectors(count, seed=number)
        library.chunks[owner] = add_vectors(urls.owner, owner, library.vectors[owner])
    analyse(urls.owner)
    yield library
    database.close()
    postgres_server.drop_database(urls.name)


@pytest.fixture
def indexed(library: Library) -> Iterator[Library]:
    VectorIndex(library.urls.owner).build(BuildOptions(), lambda progress: None)
    yield library


@pytest.fixture
def unindexed(library: Library) -> Iterator[Library]:
    VectorIndex(library.urls.owner).drop()
    yield library


def test_without_an_index_search_is_exact_for_every_owner(unindexed: Library) -> None:
    assert "document_vectors_by_embedding" not in unindexed.plan(OWNER)
    for owner, count in SHARES.items():
        assert unindexed.recall(owner) == pytest.approx(1.0, abs=0.01)  # halves tell a few near ties otherwise
        assert len(unindexed.found(owner, QUERIES[0], limit=100)) == min(100, count)


def test_with_an_index_the_owner_of_most_vectors_is_served_by_it(indexed: Library) -> None:
    assert "Index Scan using document_vectors_by_embedding" in indexed.plan(OWNER)
    assert indexed.recall(OWNER) >= 0.95
    assert indexed.recall(OWNER, limit=100) >= 0.9


def test_with_an_index_hits_come_nearest_first_and_score_as_without(indexed: Library) -> None:
    hits = indexed.catalogue.search(OWNER, vector=QUERIES[0], model=MODEL, limit=50)
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    similarity = dict(zip(indexed.chunks[OWNER], indexed.vectors[OWNER] @ QUERIES[0], strict=True))
    assert scores == pytest.approx([similarity[hit.chunk_id] for hit in hits], abs=2e-3)


@pytest.mark.parametrize("owner", [OTHER_OWNER, THIRD_OWNER])
def test_with_an_index_a_small_owner_misses_nothing_and_sees_nobody_else(indexed: Library, owner: UUID) -> None:
    for limit in (10, 100):
        for query in QUERIES[:5]:
            found = indexed.found(owner, query, limit)
            assert len(found) == min(limit, SHARES[owner])
            assert set(found) <= set(indexed.chunks[owner])
    assert indexed.recall(owner) >= 0.95


def test_an_index_that_gives_up_among_the_vectors_of_others_is_made_good_by_an_exact_search(indexed: Library) -> None:
    limit = f"alter role ingest_api in database {indexed.urls.name} set hnsw.max_scan_tuples = 1"
    planner = f"alter role ingest_api in database {indexed.urls.name} set enable_sort = off"
    sql(indexed.urls.owner, limit)
    sql(indexed.urls.owner, planner)  # else few vectors are not looked for in the index at all
    database = Database(indexed.urls.api, application_name="test")
    try:
        hampered = Library(indexed.urls, PostgresCatalogue(database), indexed.chunks, indexed.vectors)
        assert "document_vectors_by_embedding" in hampered.plan(THIRD_OWNER)
        assert hampered.recall(THIRD_OWNER, limit=15) == 1.0
    finally:
        database.close()
        sql(indexed.urls.owner, f"alter role ingest_api in database {indexed.urls.name} reset all")


def test_an_exact_search_can_be_had_with_an_index_in_place(indexed: Library) -> None:
    assert "document_vectors_by_embedding" not in indexed.plan(OWNER, exact=True)


def test_vectors_that_come_after_the_index_are_found(indexed: Library) -> None:
    late = topical_vectors(3, seed=77)
    chunks = add_vectors(indexed.urls.owner, OWNER, late)
    try:
        assert [indexed.found(OWNER, vector, limit=1)[0] for vector in late] == chunks
    finally:
        for table in ("document_chunks", "document_vectors"):
            sql(indexed.urls.owner, f"delete from upload_pipeline.{table} where chunk_id = any(%s)", (chunks,))


def test_vectors_of_documents_on_their_way_are_passed_over_however_many_are_nearer(
    database_urls: DatabaseUrls,
) -> None:
    worker, api = (Database(url, application_name="test") for url in (database_urls.worker, database_urls.api))
    store, catalogue = PostgresDocumentStore(worker, actor="run", claim_seconds=60.0), PostgresCatalogue(api)
    served, *unserved = register(database_urls.owner, sizes=[1] * 9)
    Walk(store, served).to(State.COMPLETE)
    for document_id in unserved:
        Walk(store, document_id).to(State.EMBEDDINGS_STORED)
    hits = catalogue.search(OWNER, vector=vectors_for(3)[0].tolist(), model=MODEL, limit=2)
    assert [(hit.document_id, hit.ordinal) for hit in hits][:1] == [(served, 0)]
    assert len(hits) == 2
    assert len(catalogue.search(OWNER, vector=vectors_for(3)[0].tolist(), model=MODEL, limit=50)) == 3
    worker.close()
    api.close()
