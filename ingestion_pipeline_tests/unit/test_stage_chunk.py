"""How a document is cut into chunks."""

from itertools import pairwise
from uuid import UUID

import bpe_openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion_pipeline.domain import Chunk, ParsedPage, ParsedText, chunk_id_for, sha256_of
from ingestion_pipeline.errors import InvalidDocumentError
from ingestion_pipeline.stages.chunk import (
    ChunkOptions,
    check_coverage,
    check_order,
    check_token_limit,
    chunk,
    iter_chunks,
    validate,
)
from ingestion_pipeline.stages.normalise import normalise, normalise_text
from ingestion_pipeline.stages.tokens import count_each, count_tokens

DOCUMENT = UUID("00000000-0000-4000-8000-000000000001")
SMALL = ChunkOptions(max_tokens=40, overlap_tokens=8, hard_limit_tokens=256)
PROSE = "The quick brown fox jumps over the lazy dog near the river bank. It was a sunny day! Was it not? Yes, it was. "


def of_one(text: str) -> ParsedText:
    return normalise([ParsedPage(1, text)])


def chunks_of(text: str, options: ChunkOptions | None = None) -> list[Chunk]:
    parsed = of_one(text)
    found = chunk(DOCUMENT, parsed, options or ChunkOptions())
    assert [result.message for result in validate(parsed, found) if not result.passed] == []
    assert all(piece.token_count == count_tokens(piece.text) for piece in found)
    return found


def overlaps(chunks: list[Chunk]) -> list[int]:
    return [
        count_tokens(before.text[after.start - before.start :]) if after.start < before.end else 0
        for before, after in pairwise(chunks)
    ]


def test_a_short_text_is_one_chunk() -> None:
    (only,) = chunks_of("# Title\n\nSome text.\n")
    assert only == Chunk(
        chunk_id=chunk_id_for(DOCUMENT, 0),
        ordinal=0,
        text="# Title\n\nSome text.",
        sha256=sha256_of("# Title\n\nSome text."),
        start=0,
        end=19,
        first_page=1,
        last_page=1,
        heading_path=("Title",),
        token_count=count_tokens("# Title\n\nSome text."),
    )


def test_prose_becomes_chunks_of_about_the_size_wished_for_with_a_tenth_repeated() -> None:
    paragraphs = "\n\n".join(f"Paragraph {number}. " + PROSE * 3 for number in range(100))
    for text in (paragraphs, PROSE * 400, paragraphs.replace(". ", ".\n")):
        found = chunks_of(text)
        assert all(piece.token_count <= 512 for piece in found)
        assert sum(piece.token_count for piece in found) / len(found) > 400
        assert all(20 <= overlap <= 51 for overlap in overlaps(found))


def test_an_overlap_begins_with_a_sentence() -> None:
    starts = {piece.text[:4] for piece in chunks_of(PROSE * 200)}
    assert starts <= {"The ", "It w", "Was ", "Yes,"}


def test_without_overlap_nothing_is_repeated() -> None:
    assert set(overlaps(chunks_of(PROSE * 200, ChunkOptions(overlap_tokens=0)))) == {0}


def test_tokens_are_counted_as_the_encoding_counts_them() -> None:
    encoding = bpe_openai.get_encoding("cl100k_base")
    texts = ["", PROSE, "👩‍👩‍👧 ก็ 日本\n\n\t  x", "<|endoftext|>", "<|endofprompt|>", "1234567890", "", PROSE * 100]
    counts = [len(encoding.encode_ordinary(text)) for text in texts]
    assert [count_tokens(text) for text in texts] == counts
    for several in (slice(8), slice(7), slice(4, 7), slice(3, 4), slice(1), slice(0)):
        assert count_each(texts[several]) == counts[several]


def test_pages_are_those_of_the_first_and_last_character() -> None:
    parsed = normalise([ParsedPage(number, f"Page {number}. " + PROSE * 7) for number in (2, 3, 5, 8)])
    found = chunk(DOCUMENT, parsed)
    starts = dict(zip(parsed.page_numbers, parsed.page_starts, strict=True))
    for piece in found:
        assert starts[piece.first_page] <= piece.start
        assert max(number for number, start in starts.items() if start < piece.end) == piece.last_page
    assert (found[0].first_page, found[-1].last_page) == (2, 8)


MARKDOWN = st.one_of(
    st.sampled_from(
        [
            "# H",
            "## H ##",
            "T\n===",
            "T\n---",
            "```",
            "~~~",
            "- a",
            "> q",
            "| a | b |",
            "|---|---|",
            "\n\n",
            "---",
            "***",
            "<table>",
            "</table>",
            "<tr><td>",
            "</td></tr>",
            "<TR>",
            PROSE,
            PROSE * 4,
            "word " * 60,
            "x" * 300,
            "日本語。" * 40,
            "👩\u200d👩\u200d👧" * 20,
            "🇩🇪" * 30,
            "ệ" * 50,
            "| " + "c " * 300 + "|",
            "\t tab",
            "1. one",
            "<|endoftext|>",
            "...",
        ]
    ),
    st.text(max_size=30),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(st.tuples(MARKDOWN, st.sampled_from(["\n", "\n\n", " ", ""])), max_size=40),
    page_cut=st.integers(min_value=0, max_value=40),
    options=st.sampled_from([SMALL, ChunkOptions(16, 0, 256), ChunkOptions(100, 50, 300), ChunkOptions()]),
)
def test_whatever_the_text_its_chunks_rebuild_it_within_the_limits(
    parts: list[tuple[str, str]], page_cut: int, options: ChunkOptions
) -> None:
    texts = [part + gap for part, gap in parts]
    try:
        parsed = normalise([ParsedPage(1, "".join(texts[:page_cut])), ParsedPage(2, "".join(texts[page_cut:]))])
    except InvalidDocumentError:
        assert not normalise_text("".join(texts))[0]
        return
    found = chunk(DOCUMENT, parsed, options)
    assert found == list(iter_chunks(DOCUMENT, parsed, options))
    assert [result.message for result in validate(parsed, found) if not result.passed] == []
    for piece in found:
        assert piece.token_count == count_tokens(piece.text) <= options.hard_limit_tokens
        assert piece.text == piece.text.rstrip()
        block = parsed.text[max(parsed.text.rfind("\n\n", 0, piece.start), 0) : piece.end]
        may_be_of_a_row = "|" in block or "<tr" in parsed.text[: piece.end].lower()
        assert piece.token_count <= max(options.max_tokens, 128) or may_be_of_a_row
    for before, after in pairwise(found):
        assert (
            after.start >= before.end
            or count_tokens(parsed.text[after.start : before.end]) <= options.overlap_tokens + 2
        )
        assert after.chunk_id != before.chunk_id


@pytest.mark.parametrize(
    ("maximum", "overlap", "hard"), [(15, 0, 256), (512, 257, 8192), (512, -1, 8192), (512, 51, 511), (100, 9, 255)]
)
def test_options_that_make_no_sense_are_refused(maximum: int, overlap: int, hard: int) -> None:
    with pytest.raises(ValueError, match="tokens is"):
        ChunkOptions(maximum, overlap, hard)


def test_checks_find_chunks_that_do_not_rebuild_the_text() -> None:
    parsed = of_one(PROSE * 100)
    found = chunk(DOCUMENT, parsed)
    assert len(found) > 3
    assert not check_coverage(parsed, []).passed
    assert not check_coverage(parsed, found[1:]).passed
    assert not check_coverage(parsed, found[:-1]).passed
    assert not check_coverage(parsed, [*found[:1], *found[2:]]).passed
    assert not check_coverage(parsed, [found[0]._replace(text="other"), *found[1:]]).passed
    assert not check_coverage(parsed, [found[0]._replace(sha256=bytes(32)), *found[1:]]).passed


def test_checks_find_chunks_out_of_order() -> None:
    found = chunks_of(PROSE * 100)
    assert check_order(found).passed
    assert not check_order(found[::-1]).passed
    assert not check_order([*found[:1], *found[2:]]).passed
    assert not check_order([found[0], found[0]._replace(ordinal=1)]).passed


def test_checks_find_chunks_over_the_token_limit() -> None:
    found = chunks_of(PROSE * 100)
    largest = max(piece.token_count for piece in found)
    assert check_token_limit(found, largest).passed
    assert not check_token_limit(found, largest - 1).passed
    assert not check_token_limit([found[0]._replace(token_count=0)]).passed
