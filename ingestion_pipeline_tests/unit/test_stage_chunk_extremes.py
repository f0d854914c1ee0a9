"""Texts that are hard to cut: without spaces, without end, or made to take long."""

import tracemalloc
from time import process_time

import pytest
from test_stage_chunk import DOCUMENT, PROSE, chunks_of, of_one, overlaps

from ingestion_pipeline.stages.chunk import ChunkOptions, iter_chunks
from ingestion_pipeline.stages.tokens import count_tokens


def test_a_blank_end_makes_no_chunk_that_only_repeats() -> None:
    text = f"| {'c ' * 300}|\n{PROSE * 4}\n\nẹ\u0302 |"
    assert len(chunks_of(text, ChunkOptions(100, 50, 300))) > 3


def test_a_document_of_headings_only_is_chunked() -> None:
    found = chunks_of("\n\n".join(f"{'#' * (number % 6 + 1)} Heading {number}" for number in range(2_000)))
    assert all(piece.token_count <= 512 for piece in found)
    assert found[0].heading_path == ("Heading 0",)


@pytest.mark.parametrize("grapheme", ["👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "e\u0323\u0302", "각", "க்ஷ", "\u1112\u1161\u11ab", "❤️"])
def test_a_grapheme_is_never_cut(grapheme: str) -> None:
    (normal,) = {of_one(grapheme).text}
    for shift in ("", "a", "ab"):
        for piece in chunks_of(shift + normal * 3_000):
            rest = piece.text.removeprefix(shift).replace(normal, "")
            assert rest in ("", "ab", "b", "a")


def test_a_grapheme_without_end_is_cut_between_code_points() -> None:
    found = chunks_of("a" + "\u0316\u0321" * 20_000)
    assert all(piece.token_count <= 512 for piece in found)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "\u65e5\u672c\u8a9e" * 100_000,
        "-" * 1_000_000,
        "a" + " " * 1_000_000 + "b",
        "=" * 99_999 + "\n" * 9 + "x",
    ],
    ids=["letters", "chinese", "dashes", "spaces", "underline"],
)
def test_a_line_without_end_is_chunked_in_seconds(text: str) -> None:
    started = process_time()
    found = chunks_of(text)
    assert all(piece.token_count <= 512 for piece in found)
    assert process_time() - started < 20


@pytest.mark.parametrize(
    "text",
    [
        "<table>" * 50000,
        "<table>\n\n" * 30000,
        "<tr>\n\n" * 30000,
        "# " + " #" * 200000,
        "> " * 200000,
        "|" * 300000,
        "`" * 300000,
        "```\n\n" * 60000,
        "a\n-\n\n" * 60000,
        "<tr " * 100000,
        "." * 300000,
        "\\|" * 200000,
    ],
    ids=lambda text: repr(text[:8]),
)
def test_a_hostile_text_is_chunked_in_seconds(text: str) -> None:
    started = process_time()
    assert chunks_of(text)
    assert process_time() - started < 20


def test_text_from_right_to_left_is_chunked() -> None:
    found = chunks_of("\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd. " * 2_000)
    assert all(piece.token_count <= 512 for piece in found)
    assert all(overlaps(found))


def test_words_that_look_like_special_tokens_are_counted_as_text() -> None:
    (only,) = chunks_of("a <|endoftext|> b <|fim_prefix|>")
    assert only.token_count > 8


@pytest.mark.parametrize(
    "text",
    [
        "\n\n".join(f"## Part {number}\n\n{PROSE * 5}" for number in range(20_000)),
        "\n".join([PROSE * 1_000] * 120),
    ],
    ids=["short blocks", "long lines of one block"],
)
def test_chunks_come_one_by_one_in_little_memory(text: str) -> None:
    parsed = of_one(text)
    count_tokens("warm")
    tracemalloc.start()
    total = sum(piece.end - piece.start for piece in iter_chunks(DOCUMENT, parsed))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total > 10_000_000
    assert peak < 1_000_000
