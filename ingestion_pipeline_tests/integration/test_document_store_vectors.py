"""Chunks and vectors on their way through the store: binary COPY, reuse of what was paid for, promotion."""

from collections.abc import Iterator, Sequence
from uuid import UUID

import numpy as np
import psycopg2.errors
import pytest
from conftest import DatabaseUrls
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_documents import (
    DIMENSIONS,
    MODEL,
    OTHER_OWNER,
    OWNER,
    TEXTS,
    Walk,
    accept_all,
    chunks_of,
    everything,
    register,
    sql,
    vectors_for,
)

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import Chunk, State, chunk_id_for, sha256_of
from ingestion_pipeline.errors import CheckFailedError
from ingestion_pipeline.ports import ChunkResult, PromotionFacts

OTHER_MODEL = "text-embedding-3-large"


@pytest.fixture
def owner(database_urls: DatabaseUrls) -> str:
    return database_urls.owner


@pytest.fixture
def store(database_urls: DatabaseUrls) -> Iterator[PostgresDocumentStore]:
    database = Database(database_urls.worker, application_name="test")
    yield PostgresDocumentStore(database, actor="run-7", claim_seconds=60.0)
    database.close()


def buffered_chunks(owner: str, document_id: UUID) -> list[Chunk]:
    rows = sql(
        owner,
        "select chunk_id, ordinal, text, chunk_sha256, start_offset, end_offset, first_page, last_page, heading_path, "
        "token_count from upload_pipeline.document_chunk_buffer where document_id = %s order by ordinal",
        (document_id,),
    )
    return [
        Chunk(row[0], row[1], row[2], bytes(row[3]), row[4], row[5], row[6], row[7], tuple(row[8]), row[9])
        for row in rows
    ]


def stored_halves(owner: str, table: str, document_id: UUID, model: str = MODEL) -> "np.ndarray":
    """The stored vectors in any order, from their binary form: a header of 4 bytes, then big-endian float16."""
    rows = sql(
        owner,
        f"select halfvec_send(v.embedding) from upload_pipeline.{table} as v where v.document_id = %s and v.model = %s",
        (document_id, model),
    )
    return np.array([np.frombuffer(bytes(row[0])[4:], dtype=">f2") for row in rows])


def sorted_rows(halves: "np.ndarray") -> list[bytes]:
    return sorted(row.astype(">f2").tobytes() for row in halves)


HEADINGS = [
    (),
    ("",),
    ("Plain",),
    ('She said "no"', "a, b", "{braces}", "back\\slash", "NULL", "null"),
    ("Ünïcödé", "日本語", "🙂", "tab\there", "line\nbreak", " spaces "),
]
TRICKY_TEXTS = [
    "back\\slash \\N \\.",
    "emoji 🙂 日本語 é",
    "tab\there\r\nand lines\n",
    "'quotes' \"double\"",
    "\ufeff\u200bx",
]


def test_chunks_come_back_exactly_as_they_were_cut(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    document = walk.to(State.PARSE_VALIDATED)
    chunks = [
        Chunk(chunk_id_for(document_id, ordinal), ordinal, text, sha256_of(text), ordinal, 2**31 - 1, 1, 2**31 - 1,
              heading, 7 + ordinal)
        for ordinal, (text, heading) in enumerate(zip(TRICKY_TEXTS, HEADINGS, strict=True))
    ]  # fmt: skip
    store.chunks_stored(walk.claim, [ChunkResult(document, chunks)])
    assert buffered_chunks(owner, document_id) == chunks
    assert sql(owner, "select sum(octet_length(text)) from upload_pipeline.document_chunk_buffer") == [
        (sum(len(text.encode()) for text in TRICKY_TEXTS),)
    ]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    texts=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), min_size=1),
    headings=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4),
)
def test_any_text_and_any_headings_survive_the_binary_copy(
    owner: str, store: PostgresDocumentStore, texts: list[str], headings: list[str]
) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    chunks = [
        Chunk(chunk_id_for(document_id, n), n, text, sha256_of(text), 0, 1, 1, 1, tuple(headings), 1)
        for n, text in enumerate(texts)
    ]
    document = walk.to(State.PARSE_VALIDATED)
    store.chunks_stored(walk.claim, [ChunkResult(document, chunks)])
    assert buffered_chunks(owner, document_id) == chunks


def test_chunking_anew_replaces_the_buffer_vectors_included(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDING_IN_PROGRESS)
    walk.store_vectors()
    sql(owner, "update upload_pipeline.upload_jobs set state = 'cancelled', claimed_by = null, claim_expires_at = null")
    sql(owner, "select upload_pipeline.replay_document(document_id, true) from upload_pipeline.documents")
    walk = Walk(store, document_id, texts=["Only one."])
    walk.to(State.CHUNKS_STORED)
    assert [chunk.text for chunk in buffered_chunks(owner, document_id)] == ["Only one."]
    assert [text.text for text in store.missing_vectors([document_id], MODEL)] == ["Only one."]
    assert walk.document().chunk_count == 1


def test_chunking_anew_keeps_the_vectors_of_texts_that_stay(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id, texts=["Stays.", "Goes.", "Stays."])
    walk.to(State.EMBEDDING_IN_PROGRESS)
    walk.store_vectors()
    bought = stored_halves(owner, "document_vectors", document_id)
    sql(owner, "update upload_pipeline.upload_jobs set state = 'cancelled', claimed_by = null, claim_expires_at = null")
    sql(owner, "select upload_pipeline.replay_document(document_id, true) from upload_pipeline.documents")
    anew = Walk(store, document_id, texts=["New.", "Stays."])
    anew.to(State.EMBEDDING_IN_PROGRESS)
    assert store.reuse_vectors(anew.claim, [document_id], MODEL) == {document_id: 1}
    assert [text.text for text in store.missing_vectors([document_id], MODEL)] == ["New."]
    assert len(stored_halves(owner, "document_vectors", document_id)) == len(bought) + 1
    anew.store_vectors(seed=5)
    store.embeddings_stored(anew.claim, [anew.document().document_id])
    store.promote(anew.claim, [anew.document().document_id], MODEL, accept_all)
    served = stored_halves(owner, "document_vectors", document_id)
    assert len(served) == 2  # those of what is no longer there are gone
    assert any((each == kept).all() for each in served for kept in bought)


def test_vectors_are_stored_as_the_half_floats_that_numpy_makes(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDING_IN_PROGRESS)
    vectors = vectors_for(3)
    vectors[0, :9] = [
        0.0,
        -0.0,
        6e-8,
        5.9e-8,
        6.1e-5,
        65504,
        -65504,
        1.0009765,
        1 / 3,
    ]  # zero, subnormals, largest, ties
    missing = store.missing_vectors([document_id], MODEL)
    store.store_vectors(walk.claim, missing, vectors, MODEL)
    for text, vector in zip(missing, vectors, strict=True):
        ((sent, text_form, model, owner_id, sha256),) = sql(
            owner,
            "select halfvec_send(embedding), embedding::text, model, owner_id, chunk_sha256 "
            "from upload_pipeline.document_vectors where chunk_id = %s",
            (text.chunk_id,),
        )
        assert bytes(sent)[4:] == vector.astype(np.float16).astype(">f2").tobytes()
        shown = np.array([float(value) for value in text_form.strip("[]").split(",")]).astype(np.float16)
        assert np.array_equal(shown, vector.astype(np.float16))
        assert (model, owner_id, bytes(sha256)) == (MODEL, OWNER, text.chunk_sha256)


def test_vectors_of_any_memory_layout_are_stored_alike(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDING_IN_PROGRESS)
    vectors = vectors_for(6)
    strided = np.asfortranarray(vectors)[::2]
    store.store_vectors(walk.claim, store.missing_vectors([document_id], MODEL), strided, MODEL)
    assert sorted_rows(stored_halves(owner, "document_vectors", document_id)) == sorted_rows(vectors[::2])


def test_storing_vectors_twice_is_storing_them_once(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDING_IN_PROGRESS)
    missing = store.missing_vectors([document_id], MODEL)
    store.store_vectors(walk.claim, missing, vectors_for(3, seed=1), MODEL)
    store.store_vectors(walk.claim, missing[:2], vectors_for(2, seed=2), MODEL)
    expected = [*vectors_for(2, seed=2), vectors_for(3, seed=1)[2]]
    assert sorted_rows(stored_halves(owner, "document_vectors", document_id)) == sorted_rows(np.array(expected))
    facts = store.vector_facts([document_id], MODEL)[document_id]
    assert (facts.chunks, facts.vectors, facts.abnormal_vectors, facts.tokens) == (3, 3, 0, 9)
    assert (facts.least_dimensions, facts.most_dimensions) == (DIMENSIONS, DIMENSIONS)


def test_vectors_of_a_wrong_size_are_refused_whole(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDING_IN_PROGRESS)
    missing = store.missing_vectors([document_id], MODEL)
    before = everything(owner, document_id)
    with pytest.raises(psycopg2.errors.DataException, match="expected 1536 dimensions, not 8"):
        store.store_vectors(walk.claim, missing, np.ones((3, 8), dtype=np.float32), MODEL)
    with pytest.raises(ValueError, match="2 vectors for 3 texts"):
        store.store_vectors(walk.claim, missing, vectors_for(2), MODEL)
    assert everything(owner, document_id) == before


def test_the_facts_leave_out_vectors_of_other_texts_and_tell_those_that_are_not_of_unit_length(
    owner: str, store: PostgresDocumentStore
) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDING_IN_PROGRESS)
    empty = store.vector_facts([document_id], MODEL)[document_id]
    assert (empty.chunks, empty.vectors, empty.least_dimensions, empty.tokens) == (3, 0, None, 9)
    vectors = vectors_for(3)
    vectors[1] *= 1.1
    store.store_vectors(walk.claim, store.missing_vectors([document_id], MODEL), vectors, MODEL)
    sql(owner, "update upload_pipeline.document_chunk_buffer set chunk_sha256 = sha256('x') where ordinal = 2")
    facts = store.vector_facts([document_id], MODEL)[document_id]
    assert (facts.vectors, facts.abnormal_vectors) == (2, 1)


def test_missing_vectors_are_the_chunks_without_one_by_document_and_position(
    owner: str, store: PostgresDocumentStore
) -> None:
    documents = sorted(register(owner, sizes=[1, 1]))
    walks = [Walk(store, document_id) for document_id in documents]
    for walk in walks:
        walk.to(State.EMBEDDING_IN_PROGRESS)
    missing = store.missing_vectors(documents[::-1], MODEL)
    assert [(text.document_id, text.text) for text in missing] == [(d, text) for d in documents for text in TEXTS]
    assert [text.chunk_sha256 for text in missing] == [sha256_of(text) for text in TEXTS] * 2
    assert {(text.owner_id, text.token_count) for text in missing} == {(OWNER, 3)}
    store.store_vectors(walks[0].claim, [missing[1]], vectors_for(1), MODEL)
    assert store.missing_vectors(documents, MODEL) == [missing[0], *missing[2:]]


def complete(
    owner: str, store: PostgresDocumentStore, texts: Sequence[str], whose: UUID, model: str, seed: int
) -> UUID:
    (document_id,) = register(owner, owner=whose)
    walk = Walk(store, document_id, texts)
    walk.to(State.EMBEDDING_IN_PROGRESS)
    walk.store_vectors(model, seed)
    store.embeddings_stored(walk.claim, [walk.document().document_id])
    store.promote(walk.claim, [walk.document().document_id], model, accept_all)
    return document_id


def test_vectors_are_reused_within_owner_and_model_only(owner: str, store: PostgresDocumentStore) -> None:
    complete(owner, store, [TEXTS[0], "something else"], OWNER, MODEL, seed=1)
    complete(owner, store, [TEXTS[1]], OTHER_OWNER, MODEL, seed=2)
    complete(owner, store, [TEXTS[2]], OWNER, OTHER_MODEL, seed=3)
    (document_id,) = register(owner)
    walk = Walk(store, document_id, [*TEXTS, TEXTS[0]])  # the first text twice
    walk.to(State.EMBEDDING_IN_PROGRESS)
    assert store.reuse_vectors(walk.claim, [document_id], MODEL) == {document_id: 2}
    assert [text.text for text in store.missing_vectors([document_id], MODEL)] == [TEXTS[1], TEXTS[2]]
    paid_for = vectors_for(2, seed=1)[:1]
    assert sorted_rows(stored_halves(owner, "document_vectors", document_id)) == sorted_rows(paid_for) * 2
    assert store.reuse_vectors(walk.claim, [document_id], MODEL) == {}  # nothing is left to reuse
    assert store.reuse_vectors(walk.claim, [], MODEL) == {}


def test_after_a_change_of_the_model_every_chunk_gets_another_vector(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDING_IN_PROGRESS)
    store.store_vectors(walk.claim, store.missing_vectors([document_id], MODEL)[:2], vectors_for(2), MODEL)
    assert store.reuse_vectors(walk.claim, [document_id], MODEL) == {}
    assert len(store.missing_vectors([document_id], MODEL)) == 1
    assert store.reuse_vectors(walk.claim, [document_id], OTHER_MODEL) == {}
    assert len(store.missing_vectors([document_id], OTHER_MODEL)) == 3


def test_promotion_serves_what_was_buffered_and_empties_the_buffer(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDINGS_STORED)
    seen: list[PromotionFacts] = []
    store.promote(walk.claim, [walk.document().document_id], MODEL, lambda _, facts: seen.append(facts))
    assert (seen[0].buffered_chunks, seen[0].served_chunks, seen[0].tokens) == (3, 3, 9)
    assert seen[0].unequal_chunks == 0
    served = sql(
        owner,
        "select chunk_id, ordinal, text, start_offset, end_offset, heading_path "
        "from upload_pipeline.document_chunks order by ordinal",
    )
    assert served == [
        (c.chunk_id, c.ordinal, c.text, c.start, c.end, list(c.heading_path)) for c in chunks_of(document_id)
    ]
    assert sorted_rows(stored_halves(owner, "document_vectors", document_id)) == sorted_rows(vectors_for(3))
    assert sql(owner, "select count(*) from upload_pipeline.document_chunk_buffer") == [(0,)]
    assert sql(owner, "select content_sha256 from upload_pipeline.documents")[0][0].tobytes() == seen[0].content_sha256


def test_a_promotion_that_is_not_accepted_leaves_everything_as_it_was(owner: str, store: PostgresDocumentStore) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDINGS_STORED)
    before = everything(owner, document_id)

    def refuse(_: UUID, facts: PromotionFacts) -> None:
        raise CheckFailedError(f"{facts.served_chunks} chunks")

    with pytest.raises(CheckFailedError, match="3 chunks"):
        store.promote(walk.claim, [walk.document().document_id], MODEL, refuse)
    assert everything(owner, document_id) == before


@pytest.mark.parametrize(
    "change",
    [
        "new.text := new.text || new.text",
        "new.heading_path := array[new.text]",
        "new.end_offset := new.end_offset + 1",
    ],
)
def test_served_rows_that_differ_are_counted(owner: str, store: PostgresDocumentStore, change: str) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDINGS_STORED)
    # a fault of the database: what is served is not what was written
    sql(
        owner,
        f"create function public.spoil() returns trigger language plpgsql as 'begin {change}; "
        "return new; end'; create trigger spoil before insert on upload_pipeline.document_chunks "
        "for each row execute function public.spoil()",
    )
    seen: list[PromotionFacts] = []
    store.promote(walk.claim, [walk.document().document_id], MODEL, lambda _, facts: seen.append(facts))
    assert seen[0].buffered_chunks == seen[0].served_chunks == 3
    assert seen[0].unequal_chunks == 3


def test_the_fingerprint_is_the_same_whether_hashes_of_vectors_came_with_them_or_not(
    owner: str, store: PostgresDocumentStore
) -> None:
    (document_id,) = register(owner)
    walk = Walk(store, document_id)
    walk.to(State.EMBEDDINGS_STORED)
    seen: list[PromotionFacts] = []

    def look(_: UUID, facts: PromotionFacts) -> None:
        seen.append(facts)
        raise CheckFailedError("not yet")

    for forget in (False, True):
        if forget:
            sql(owner, "update upload_pipeline.document_vectors set vector_sha256 = null")
        with pytest.raises(CheckFailedError):
            store.promote(walk.claim, [document_id], MODEL, look)
    assert seen[0].content_sha256 == seen[1].content_sha256 is not None


def test_processing_a_complete_document_anew_serves_the_new_chunks_alone(
    owner: str, store: PostgresDocumentStore
) -> None:
    document_id = complete(owner, store, TEXTS, OWNER, MODEL, seed=1)
    sql(owner, "set session_replication_role = replica; update upload_pipeline.upload_jobs set state = 'uploaded'")
    walk = Walk(store, document_id, ["Rewritten.", TEXTS[1]])
    walk.claim = str(sql(owner, "select claimed_by from upload_pipeline.upload_jobs")[0][0])
    walk.to(State.EMBEDDING_IN_PROGRESS)
    assert store.reuse_vectors(walk.claim, [document_id], MODEL) == {}  # the text that stays has its vector
    walk.store_vectors(seed=9)
    store.embeddings_stored(walk.claim, [walk.document().document_id])
    store.promote(walk.claim, [walk.document().document_id], MODEL, accept_all)
    assert sql(owner, "select text from upload_pipeline.document_chunks order by ordinal") == [
        ("Rewritten.",),
        (TEXTS[1],),
    ]
    expected = np.array([vectors_for(1, seed=9)[0], vectors_for(3, seed=1)[1]])
    assert sorted_rows(stored_halves(owner, "document_vectors", document_id)) == sorted_rows(expected)


def test_vectors_that_another_model_made_of_an_earlier_text_are_not_served_with_the_new_one(
    owner: str, store: PostgresDocumentStore
) -> None:
    document_id = complete(owner, store, TEXTS, OWNER, OTHER_MODEL, seed=1)
    sql(owner, "set session_replication_role = replica; update upload_pipeline.upload_jobs set state = 'uploaded'")
    walk = Walk(store, document_id, ["Rewritten.", *TEXTS[1:]])
    walk.claim = str(sql(owner, "select claimed_by from upload_pipeline.upload_jobs")[0][0])
    walk.to(State.EMBEDDINGS_STORED)
    store.promote(walk.claim, [walk.document().document_id], MODEL, accept_all)
    served = "select c.ordinal, v.model from upload_pipeline.document_vectors as v join upload_pipeline.document_chunks"
    assert sql(owner, f"{served} as c on c.chunk_id = v.chunk_id order by c.ordinal, v.model") == [
        (0, MODEL), (1, OTHER_MODEL), (1, MODEL), (2, OTHER_MODEL), (2, MODEL),
    ]  # fmt: skip
