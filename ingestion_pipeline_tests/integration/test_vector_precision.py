"""Vectors in half and in full precision, from what the embedder gave to what search finds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run_ingest
from conftest import DatabaseUrls
from stored_documents import MODEL, OWNER, Walk, everything, register, sql, vectors_for
from vector_library import add_vectors

from ingestion_pipeline.adapters.postgres.catalogue import PostgresCatalogue
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.adapters.postgres.inventory import PostgresInventory
from ingestion_pipeline.adapters.postgres.migrations import Migrator
from ingestion_pipeline.domain import Precision, State
from ingestion_pipeline.errors import ConfigurationError
from ingestion_pipeline.ports import PromotionFacts

NUMBERS = {Precision.HALF: ("halfvec", ">f2"), Precision.FULL: ("vector", ">f4")}
OTHER = {Precision.HALF: Precision.FULL, Precision.FULL: Precision.HALF}


@dataclass
class Stored:
    """A database in one precision, its worker's store and its API's catalogue."""

    urls: DatabaseUrls
    precision: Precision
    store: PostgresDocumentStore
    catalogue: PostgresCatalogue

    def numbers(self, table: str) -> Any:
        """The stored vectors, sorted: from their binary form, a header of 4 bytes and big-endian floats."""
        kind, number = NUMBERS[self.precision]
        rows = sql(self.urls.owner, f"select {kind}_send(embedding) from upload_pipeline.{table}")
        return sorted(np.frombuffer(bytes(row[0])[4:], dtype=number).tolist() for row in rows)


@pytest.fixture(params=Precision)
def stored(request: Any, database_urls: DatabaseUrls) -> Iterator[Stored]:
    precision = request.param
    Migrator(database_urls.owner).set_precision(precision)
    worker = Database(database_urls.worker, application_name="test")
    api = Database(database_urls.api, application_name="test")
    yield Stored(
        database_urls,
        precision,
        PostgresDocumentStore(worker, actor="run", claim_seconds=60.0, precision=precision),
        PostgresCatalogue(api, precision=precision),
    )
    worker.close()
    api.close()


def test_vectors_go_through_promotion_to_search_unchanged(stored: Stored) -> None:
    (document_id,) = register(stored.urls.owner)
    walk = Walk(stored.store, document_id)
    walk.to(State.EMBEDDINGS_STORED)
    expected = sorted(vectors_for(3).astype(NUMBERS[stored.precision][1]).tolist())
    assert stored.numbers("document_vectors") == expected
    facts = stored.store.vector_facts([document_id], MODEL)[document_id]
    assert (facts.vectors, facts.abnormal_vectors, facts.least_dimensions, facts.most_dimensions) == (3, 0, 1536, 1536)
    seen: list[PromotionFacts] = []
    stored.store.promote(walk.claim, [walk.document().document_id], MODEL, lambda _, facts: seen.append(facts))
    assert (seen[0].served_chunks, seen[0].unequal_chunks) == (3, 0)
    assert stored.numbers("document_vectors") == expected
    stored.catalogue.check()
    for position, vector in enumerate(vectors_for(3)):
        hit = stored.catalogue.search(OWNER, vector=vector.tolist(), model=MODEL, limit=1)[0]
        assert hit.ordinal == position
        assert hit.score == pytest.approx(1.0, abs=1e-3 if stored.precision is Precision.HALF else 1e-6)


def test_the_audit_proves_vectors_in_their_precision(stored: Stored) -> None:
    (document_id,) = register(stored.urls.owner)
    Walk(stored.store, document_id).to(State.COMPLETE)
    database = Database(stored.urls.worker, application_name="test")
    [facts] = PostgresInventory(database).facts([document_id])
    database.close()
    assert (facts.served.vectors, facts.served.unfit) == (3, 0)
    assert facts.has_proven_vectors


def test_vectors_are_reused_in_their_precision(stored: Stored) -> None:
    for _ in range(2):
        (document_id,) = register(stored.urls.owner)
        walk = Walk(stored.store, document_id)
        walk.to(State.EMBEDDING_IN_PROGRESS)
        reused = stored.store.reuse_vectors(walk.claim, [document_id], MODEL)
        if not reused:
            walk.store_vectors()
            stored.store.embeddings_stored(walk.claim, [walk.document().document_id])
            stored.store.promote(walk.claim, [walk.document().document_id], MODEL, lambda _, facts: None)
    assert reused == {document_id: 3}
    numbers = stored.numbers("document_vectors")
    assert numbers[::2] == numbers[1::2] == sorted(vectors_for(3).astype(NUMBERS[stored.precision][1]).tolist())


def test_a_store_set_to_the_other_precision_writes_nothing_and_names_the_setting(stored: Stored) -> None:
    (document_id,) = register(stored.urls.owner)
    walk = Walk(stored.store, document_id)
    walk.to(State.EMBEDDING_IN_PROGRESS)
    before = everything(stored.urls.owner, document_id)
    database = Database(stored.urls.worker, application_name="test")
    other = PostgresDocumentStore(database, actor="run", claim_seconds=60.0, precision=OTHER[stored.precision])
    texts = other.missing_vectors([document_id], MODEL)
    try:
        with pytest.raises(ConfigurationError, match="INGEST_VECTOR_PRECISION") as caught:
            other.store_vectors(walk.claim, texts, vectors_for(3), MODEL)
    finally:
        database.close()
    assert caught.value.transient  # the document waits while somebody mends the setting
    assert everything(stored.urls.owner, document_id) == before


def test_an_api_set_to_the_other_precision_is_not_ready_and_names_the_setting(stored: Stored) -> None:
    database = Database(stored.urls.api, application_name="test")
    wrong = PostgresCatalogue(database, precision=OTHER[stored.precision])
    try:
        with pytest.raises(ConfigurationError, match=f"set it to {stored.precision}"):
            wrong.check()
    finally:
        database.close()


def test_the_precision_is_changed_only_while_there_are_no_vectors(stored: Stored) -> None:
    migrator = Migrator(stored.urls.owner)
    migrator.set_precision(OTHER[stored.precision])
    migrator.set_precision(stored.precision)
    add_vectors(stored.urls.owner, OWNER, vectors_for(1), precision=stored.precision)
    migrator.set_precision(stored.precision)
    with pytest.raises(ConfigurationError, match=f"database keeps vectors in {stored.precision} precision"):
        migrator.set_precision(OTHER[stored.precision])
    assert stored.numbers("document_vectors")


def test_vectors_are_kept_in_their_rows_in_either_precision(stored: Stored) -> None:
    storages = sql(
        stored.urls.owner,
        "select c.relname, a.attstorage::text from pg_attribute as a join pg_class as c on c.oid = a.attrelid "
        "where a.attname = 'embedding' and c.relname in ('document_vectors', 'owned_vectors')",
    )
    assert {storage for _, storage in storages} == {"p"}
    assert len(storages) == 2


def test_db_migrate_sets_the_precision_of_an_empty_database_and_refuses_it_later(
    empty_database_url: str, tmp_path: Path
) -> None:
    full = {"INGEST_DATABASE_URL": empty_database_url, "INGEST_VECTOR_PRECISION": "full"}
    assert run_ingest("db", "migrate", settings=full, directory=tmp_path).returncode == 0
    kind = "select atttypid::regtype::text from pg_attribute where attname = 'embedding' and attnum > 0 " \
           "and attrelid = 'upload_pipeline.document_vectors'::regclass"  # fmt: skip
    assert sql(empty_database_url, kind) == [("vector",)]
    add_vectors(empty_database_url, OWNER, vectors_for(1), precision=Precision.FULL)
    half = full | {"INGEST_VECTOR_PRECISION": "half"}
    refused = run_ingest("db", "migrate", settings=half, directory=tmp_path)
    assert refused.returncode == 1
    assert "error [configuration_error]: INGEST_VECTOR_PRECISION is half" in refused.stderr
    assert sql(empty_database_url, kind) == [("vector",)]


def test_rolling_back_brings_vectors_to_what_the_code_of_before_knows(stored: Stored) -> None:
    add_vectors(stored.urls.owner, OWNER, vectors_for(2), precision=stored.precision)
    migrator = Migrator(stored.urls.owner)
    while any(migration.applied and "scale" in migration.name for migration in migrator.status()):
        migrator.rollback()
    rows = sql(stored.urls.owner, "select halfvec_send(embedding) from upload_pipeline.document_vectors")
    halves = sorted(np.frombuffer(bytes(row[0])[4:], dtype=">f2").tolist() for row in rows)
    assert halves == sorted(vectors_for(2).astype(">f2").tolist())
