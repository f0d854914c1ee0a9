"""Requests of texts to embed, and the vectors that come back."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingestion_pipeline.domain import sha256_of
from ingestion_pipeline.errors import IntegrityError, VendorUnavailableError
from ingestion_pipeline.ports import VectorFacts
from ingestion_pipeline.stages.embed import check_vectors, check_vectors_complete, plan_batches, validate_vectors


@dataclass(frozen=True)
class Text:
    text: str
    token_count: int

    @property
    def chunk_sha256(self) -> bytes:
        return sha256_of(self.text)


def unit_vectors(count: int, dimensions: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(7).standard_normal((count, dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@given(
    items=st.lists(st.builds(Text, st.sampled_from([f"text {n}" for n in range(40)]), st.integers(1, 50)), max_size=80),
    max_inputs=st.integers(1, 10),
    max_tokens_total=st.integers(50, 200),
)
def test_batches_respect_all_limits_lose_nothing_and_repeat_nothing(
    items: list[Text], max_inputs: int, max_tokens_total: int
) -> None:
    batches = plan_batches(items, max_inputs, 50, max_tokens_total)
    assert all(1 <= len(batch) <= max_inputs for batch in batches)
    assert all(sum(item.token_count for item in batch) <= max_tokens_total for batch in batches)
    sent = [item.text for batch in batches for item in batch]
    assert sent == list(dict.fromkeys(item.text for item in items))


def test_a_batch_is_filled_before_the_next_is_begun() -> None:
    sizes = [len(batch) for batch in plan_batches([Text(f"text {n}", 512) for n in range(600)])]
    assert sizes == [384, 216]


def test_a_batch_may_reach_its_limits_exactly() -> None:
    assert len(plan_batches([Text(f"{n}", 8_192) for n in range(36)])) == 1
    assert [len(batch) for batch in plan_batches([Text(f"{n}", 8_192) for n in range(37)])] == [36, 1]
    assert [len(batch) for batch in plan_batches([Text(f"{n}", 1) for n in range(2_049)], max_inputs=2_048)] == [
        2_048,
        1,
    ]


def test_no_texts_make_no_batches() -> None:
    assert plan_batches([]) == []


@pytest.mark.parametrize("item", [Text("a", 8_193), Text("a", 0), Text("", 1), Text(" \n", 1)])
def test_a_text_that_no_request_may_hold_is_refused(item: Text) -> None:
    with pytest.raises(IntegrityError):
        plan_batches([Text("good", 1), item])


@pytest.mark.parametrize("limits", [(0, 10, 10), (2_049, 10, 10), (1, 8_193, 10), (1, 10, 300_001), (1, 0, 10)])
def test_limits_beyond_those_of_a_request_are_refused(limits: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="not from 1 to"):
        plan_batches([], *limits)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_good_vectors_pass(count: int) -> None:
    vectors = unit_vectors(count, 1536)
    assert check_vectors(vectors, count, 1536).passed
    validate_vectors(vectors, count, 1536)
    assert check_vectors(vectors.astype(np.float16).astype(np.float32), count, 1536).passed


@pytest.mark.parametrize(
    ("value", "fact"),
    [(np.nan, "not_finite"), (np.inf, "not_finite"), (-np.inf, "not_finite"), (1e30, "not_of_unit_length")],
)
def test_one_bad_number_fails_its_vectors(value: float, fact: str) -> None:
    vectors = unit_vectors(5, 8)
    vectors[3, 2] = value
    result = check_vectors(vectors, 5, 8)
    assert not result.passed
    assert result.facts[fact] == 1
    with pytest.raises(VendorUnavailableError, match="vectors") as caught:
        validate_vectors(vectors, 5, 8)
    assert caught.value.code == "malformed_response"


def test_zero_and_unscaled_vectors_fail() -> None:
    vectors = unit_vectors(5, 8)
    vectors[0] = 0
    vectors[1] *= 1.02
    vectors[2] *= 1.005
    facts = check_vectors(vectors, 5, 8).facts
    assert (facts["zeros"], facts["not_of_unit_length"], facts["not_finite"]) == (1, 1, 0)


@pytest.mark.parametrize("shape", [(4, 8), (6, 8), (5, 7), (5,), (0, 8)])
def test_vectors_of_another_shape_fail(shape: tuple[int, ...]) -> None:
    with pytest.raises(VendorUnavailableError, match="shape"):
        validate_vectors(np.ones(shape, np.float32), 5, 8)


COMPLETE = VectorFacts(
    chunks=3,
    vectors=3,
    abnormal_vectors=0,
    least_dimensions=1536,
    most_dimensions=1536,
    tokens=900,
)


def test_a_document_whose_chunks_all_have_their_own_vector_may_go_on() -> None:
    result = check_vectors_complete(COMPLETE, 1536)
    assert result.passed
    assert result.facts == {"chunks": 3, "vectors": 3}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"vectors": 1}, "2 of 3 chunks have no vector"),
        ({"abnormal_vectors": 1}, "1 vectors are not of unit length"),
        ({"least_dimensions": 512}, "dimensions are 512 to 1536, not 1536"),
        ({"most_dimensions": 3072}, "dimensions are 1536 to 3072, not 1536"),
        ({"abnormal_vectors": 1, "vectors": 2}, "1 of 3 chunks have no vector; 1 vectors are not of unit length"),
    ],
)
def test_vectors_that_are_missing_or_unfit_stop_their_document(changes: dict[str, int], problem: str) -> None:
    result = check_vectors_complete(replace(COMPLETE, **changes), 1536)
    assert not result.passed
    assert result.message == problem


def test_a_document_without_chunks_goes_no_further() -> None:
    nothing = VectorFacts(0, 0, 0, None, None, 0)
    assert check_vectors_complete(nothing, 1536).message == "there are no chunks"
