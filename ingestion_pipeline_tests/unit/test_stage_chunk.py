"""How a document is cut into chunks."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise
from time import process_time
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
from ingestion_pipeline.stages.normalise import normalise
from ingestion_pipeline.stages.tokens import count_tokens

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


def test_a_chunk_ends_before_a_heading_in_its_second_half() -> None:
    section = PROSE * 12
    found = chunks_of("\n\n".join(f"## Part {number}\n\n{section}\n\n{section[:400]}" for number in range(10)))
    assert [piece.text.split("\n")[0] for piece in found] == [f"## Part {number}" for number in range(10)]
    assert set(overlaps(found)) == {0}


def test_a_higher_heading_is_the_better_boundary() -> None:
    text = "\n\n".join([PROSE * 11, "# Top", PROSE * 2, "## Below", PROSE * 8])
    assert [piece.text[:7] for piece in chunks_of(text)] == [PROSE[:7], "# Top\n\n"]


def test_a_heading_is_not_left_without_its_text() -> None:
    for filler in range(10, 40):
        found = chunks_of(f"{PROSE * filler}\n\n## Title\n\n### Subtitle\n\n{PROSE * 5}")
        assert not any(piece.text.endswith(("## Title", "### Subtitle")) for piece in found)


def test_the_heading_path_is_that_in_force_where_the_chunk_begins() -> None:
    text = f"# A #\n\n{PROSE * 30}\n\nB *b*\n---\n\n{PROSE * 30}\n\n### C\n{PROSE * 30}\n\nD\n===\n\n{PROSE * 30}"
    paths = [piece.heading_path for piece in chunks_of(text)]
    assert list(dict.fromkeys(paths)) == [("A",), ("A", "B *b*"), ("A", "B *b*", "C"), ("D",)]


@pytest.mark.parametrize(
    "code",
    [
        "```\n# no heading\n\n# nor this\n```",
        "~~~~ python\n# no\n\n~~~\n# no\n```\n# no\n~~~~",
        "````\n```\n# no\n```\n# no\n````",
        "    # indented code",
        "#hashtag",
        "####### seven",
        "```inline``` code\n\n    # no",
        "> # quoted",
        "- item\n---",
        "| a |\n---",
        "one\ntwo\nthree\nfour\n\n---",
        "one\ntwo\nthree\nfour\nfive\n---",
    ],
)
def test_what_is_not_a_heading_does_not_enter_the_path(code: str) -> None:
    found = chunks_of(f"# Real\n\n{code}\n\n{PROSE * 60}")
    assert {piece.heading_path for piece in found} == {("Real",)}


def test_front_matter_is_no_heading() -> None:
    assert {piece.heading_path for piece in chunks_of(f"---\ntitle: x\n---\n\n{PROSE * 60}")} == {()}


def test_a_fence_that_is_never_closed_reaches_to_the_end() -> None:
    found = chunks_of(f"# A\n\n```\n{PROSE * 30}\n\n# B\n\n{PROSE * 30}")
    assert {piece.heading_path for piece in found} == {("A",)}


def test_a_document_of_headings_only_is_chunked() -> None:
    found = chunks_of("\n\n".join(f"{'#' * (number % 6 + 1)} Heading {number}" for number in range(2_000)))
    assert all(piece.token_count <= 512 for piece in found)
    assert found[0].heading_path == ("Heading 0",)


@pytest.mark.parametrize(
    "table",
    [
        "| a | b |\n| - | :-: |\n" + "".join(f"| {number} | {PROSE} |\n" for number in range(300)),
        "a | b\n--|--\n" + "".join(f"{number} | {PROSE * 6}\n" for number in range(50)),
        "> | a | b |\n> | --- | --- |\n" + "".join(f"> | {number} | {PROSE} |\n" for number in range(200)),
    ],
    ids=["pipes", "bare", "quoted"],
)
@pytest.mark.parametrize("before", ["", PROSE * 6 + "\n\n", "# T\n"], ids=["alone", "after text", "after heading"])
def test_a_markdown_row_is_never_cut(table: str, before: str) -> None:
    text = of_one(before + table).text
    first_row = text.index(table.split("\n")[0])
    for piece in chunks_of(before + table):
        assert piece.start <= first_row or text[piece.start - 1] == "\n"
        assert piece.end < first_row or piece.end == len(text) or text[piece.end] == "\n"


@pytest.mark.parametrize("gap", ["", "\n", "\n\n"], ids=["one line", "lines", "blank lines"])
@pytest.mark.parametrize("closing", ["</td></tr>", "</td>"], ids=["closed", "left open"])
def test_an_html_row_is_never_cut(gap: str, closing: str) -> None:
    rows = [f"<tr><td>{number}{gap}<table><tr><td>in</td></tr></table>{gap}{PROSE}{closing}" for number in range(100)]
    text = f"{PROSE}\n\n<table>{gap}{gap.join(rows)}{gap}</table>\n\n{PROSE}"
    found = chunks_of(text)
    assert len(found) > 5
    for row in rows:
        assert any(row.rstrip() in piece.text for piece in found)


def test_a_table_of_ten_thousand_rows_is_cut_between_rows() -> None:
    rows = [f"| {number} | name {number} | {number * 37 % 1000} |" for number in range(10_000)]
    text = "\n".join(["| a | b | c |", "|---|---|---|", *rows])
    lines = set(text.split("\n"))
    found = chunks_of(text)
    assert all(set(piece.text.split("\n")) <= lines for piece in found)
    assert all(overlap > 20 for overlap in overlaps(found))


def test_a_row_larger_than_a_chunk_stays_whole_up_to_the_hard_limit() -> None:
    row = "| " + "word " * 6_000 + "|"
    found = chunks_of(f"| a |\n|---|\n{row}\n| b |\n")
    assert [piece.text for piece in found if "word" in piece.text] == [row]
    assert max(piece.token_count for piece in found) > 6_000


def test_a_row_over_the_hard_limit_is_cut_between_cells() -> None:
    cells = [f" cell {number} " + "word " * 100 for number in range(200)]
    found = chunks_of(f"|{'|'.join(cells)}|\n|---|")
    assert all(any(cell.strip() in piece.text for piece in found) for cell in cells)
    assert all(piece.token_count <= 512 for piece in found)


def test_a_cell_over_the_hard_limit_is_cut_between_words_and_a_word_between_graphemes() -> None:
    found = chunks_of(f"| {'word ' * 20_000} | {'👩‍👩‍👧' * 5_000} |\n|---|---|")
    assert all(piece.token_count <= 8_192 for piece in found)
    assert all(not piece.text.startswith(("ord", "rd", "\u200d")) for piece in found)


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


def test_tokens_are_counted_as_the_encoding_counts_them() -> None:
    encoding = bpe_openai.get_encoding("cl100k_base")
    for text in ("", PROSE, "👩‍👩‍👧 ก็ 日本\n\n\t  x", "<|endoftext|>", "1234567890"):
        assert count_tokens(text) == len(encoding.encode_ordinary(text))


def test_pages_are_those_of_the_first_and_last_character() -> None:
    parsed = normalise([ParsedPage(number, f"Page {number}. " + PROSE * 7) for number in (2, 3, 5, 8)])
    found = chunk(DOCUMENT, parsed)
    starts = dict(zip(parsed.page_numbers, parsed.page_starts, strict=True))
    for piece in found:
        assert starts[piece.first_page] <= piece.start
        assert max(number for number, start in starts.items() if start < piece.end) == piece.last_page
    assert (found[0].first_page, found[-1].last_page) == (2, 8)


def test_chunks_come_one_by_one_in_little_memory() -> None:
    parsed = of_one("\n\n".join(f"## Part {number}\n\n{PROSE * 5}" for number in range(20_000)))
    count_tokens("warm")
    tracemalloc.start()
    total = sum(piece.end - piece.start for piece in iter_chunks(DOCUMENT, parsed))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total > 10_000_000
    assert peak < 1_000_000


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
        assert not "".join(texts).strip("\ufeff \n\t") or not any(
            character.isprintable() for character in "".join(texts)
        )
        return
    found = chunk(DOCUMENT, parsed, options)
    assert found == list(iter_chunks(DOCUMENT, parsed, options))
    assert [result.message for result in validate(parsed, found) if not result.passed] == []
    for piece in found:
        assert piece.token_count == count_tokens(piece.text) <= options.hard_limit_tokens
        assert piece.text == piece.text.rstrip()
        assert piece.token_count <= max(options.max_tokens, 128) or "|" in piece.text or "<t" in piece.text.lower()
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
    assert not check_coverage(parsed, [replace(found[0], text="other"), *found[1:]]).passed
    assert not check_coverage(parsed, [replace(found[0], sha256=bytes(32)), *found[1:]]).passed


def test_checks_find_chunks_out_of_order() -> None:
    found = chunks_of(PROSE * 100)
    assert check_order(found).passed
    assert not check_order(found[::-1]).passed
    assert not check_order([*found[:1], *found[2:]]).passed
    assert not check_order([found[0], replace(found[0], ordinal=1)]).passed


def test_checks_find_chunks_over_the_token_limit() -> None:
    found = chunks_of(PROSE * 100)
    largest = max(piece.token_count for piece in found)
    assert check_token_limit(found, largest).passed
    assert not check_token_limit(found, largest - 1).passed
    assert not check_token_limit([replace(found[0], token_count=0)]).passed
