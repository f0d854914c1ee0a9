"""What is recorded of a finished document."""

import hashlib
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest

from ingestion_pipeline.domain import Chunk, ParsedPage
from ingestion_pipeline.errors import IntegrityError
from ingestion_pipeline.stages.chunk import chunk
from ingestion_pipeline.stages.finalize import (
    check_content_hash,
    check_counts,
    content_hash,
    cost_in_usd,
    summarise,
    vector_hashes,
)
from ingestion_pipeline.stages.normalise import normalise

MODEL = "text-embedding-3-small"
TEXT = normalise([ParsedPage(number, "A sentence of a page. " * 200) for number in (1, 2)])
CHUNKS: list[Chunk] = chunk(UUID(int=1), TEXT)
VECTORS = np.random.default_rng(3).standard_normal((len(CHUNKS), 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("model", "tokens", "cost"),
    [(MODEL, 1_000_000, 0.02), ("text-embedding-3-large", 500_000, 0.065), (MODEL, 0, 0.0), ("another", 10, None)],
)
def test_the_cost_follows_the_price_list(model: str, tokens: int, cost: float | None) -> None:
    assert cost_in_usd(model, tokens) == (None if cost is None else pytest.approx(cost))


def test_a_summary_counts_each_character_token_and_page_once() -> None:
    summary = summarise(CHUNKS, vector_hashes(VECTORS), MODEL)
    assert len(CHUNKS) > 2
    assert summary.chunks == len(CHUNKS)
    assert summary.tokens == sum(piece.token_count for piece in CHUNKS)
    assert summary.pages == 2
    assert 0 <= len(TEXT.text) - summary.characters < 2 * len(CHUNKS)
    assert summary.cost_usd == pytest.approx(summary.tokens * 0.02 / 1e6)


def test_the_cost_is_that_of_the_billed_tokens() -> None:
    assert summarise(CHUNKS, vector_hashes(VECTORS), MODEL, billed_tokens=0).cost_usd == 0


def test_the_order_in_which_chunks_arrive_does_not_change_the_summary() -> None:
    hashes = vector_hashes(VECTORS)
    assert summarise(CHUNKS[::-1], hashes[::-1], MODEL) == summarise(CHUNKS, hashes, MODEL)


def test_any_change_of_a_chunk_or_a_vector_changes_the_content_hash() -> None:
    original = summarise(CHUNKS, vector_hashes(VECTORS), MODEL).content_sha256
    changed = VECTORS.copy()
    changed[1, 3] = np.nextafter(changed[1, 3], np.float32(2))
    others = [
        summarise(CHUNKS, vector_hashes(changed), MODEL),
        summarise(CHUNKS, vector_hashes(VECTORS[::-1]), MODEL),
        summarise([replace(CHUNKS[0], sha256=bytes(32)), *CHUNKS[1:]], vector_hashes(VECTORS), MODEL),
        summarise(CHUNKS[:-1], vector_hashes(VECTORS[:-1]), MODEL),
    ]
    assert len({original, *(summary.content_sha256 for summary in others)}) == 5


def test_the_content_hash_is_over_chunk_and_vector_hashes_in_turn() -> None:
    assert (
        content_hash([b"a" * 32, b"b" * 32], [b"c" * 32, b"d" * 32])
        == hashlib.sha256(b"a" * 32 + b"c" * 32 + b"b" * 32 + b"d" * 32).digest()
    )


def test_vector_hashes_do_not_depend_on_the_layout_in_memory() -> None:
    expected = [hashlib.sha256(row.astype("<f4").tobytes()).digest() for row in VECTORS]
    assert vector_hashes(VECTORS) == vector_hashes(np.asfortranarray(VECTORS)) == expected
    assert vector_hashes(VECTORS.astype(">f4").astype(np.float32)) == expected


@pytest.mark.parametrize(
    ("chunk_hashes", "vectors"),
    [([bytes(32)], []), ([], [bytes(32)]), ([bytes(31)], [bytes(32)]), ([bytes(32)], [b""])],
)
def test_hashes_that_do_not_match_up_are_refused(chunk_hashes: list[bytes], vectors: list[bytes]) -> None:
    with pytest.raises(IntegrityError):
        content_hash(chunk_hashes, vectors)


def test_chunks_without_their_vectors_are_not_summarised() -> None:
    with pytest.raises(IntegrityError, match="vectors"):
        summarise(CHUNKS, vector_hashes(VECTORS[1:]), MODEL)


def test_counts_that_agree_pass() -> None:
    assert check_counts(3, 3, 3).passed


@pytest.mark.parametrize("counts", [(3, 2, 3), (3, 3, 2), (2, 3, 3), (0, 0, 0)])
def test_counts_that_differ_or_are_zero_fail(counts: tuple[int, int, int]) -> None:
    result = check_counts(*counts)
    assert not result.passed
    assert "were buffered" in result.message


def test_served_content_has_to_be_the_buffered_one() -> None:
    assert check_content_hash(bytes(32), bytes(32)).passed
    assert not check_content_hash(bytes(32), b"a" * 32).passed
