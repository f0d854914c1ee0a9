"""What is asked before a finished document is served."""

from dataclasses import replace

import pytest

from ingestion_pipeline.ports import PromotionFacts
from ingestion_pipeline.stages.finalize import check_promotion

AGREEING = PromotionFacts(buffered_chunks=3, served_chunks=3, unequal_chunks=0, content_sha256=b"b" * 32, tokens=900)


def test_buffers_that_equal_what_is_served_and_what_was_cut_pass() -> None:
    result = check_promotion(AGREEING, expected_chunks=3)
    assert result.passed
    assert result.facts == {"chunks": 3}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"served_chunks": 2}, "2 chunks are served, 3 were cut; 3 chunks were buffered, 2 are served"),
        ({"buffered_chunks": 4}, "4 chunks were buffered, 3 are served"),
        ({"unequal_chunks": 2}, "2 chunks are not served as they were buffered"),
        ({"content_sha256": None}, "there is nothing to serve"),
    ],
)
def test_whatever_differs_is_said_and_stops_the_document(changes: dict[str, int | bytes | None], problem: str) -> None:
    result = check_promotion(replace(AGREEING, **changes), expected_chunks=3)  # type: ignore[arg-type]  # by name
    assert not result.passed
    assert result.message == problem


def test_rows_that_agree_with_each_other_are_still_counted_against_the_chunks_that_were_cut() -> None:
    result = check_promotion(AGREEING, expected_chunks=4)
    assert not result.passed
    assert result.message == "3 chunks are served, 4 were cut"


def test_a_document_without_rows_is_not_served() -> None:
    nothing = PromotionFacts(buffered_chunks=0, served_chunks=0, unequal_chunks=0, content_sha256=None, tokens=0)
    assert not check_promotion(nothing, expected_chunks=0).passed
