"""How chunks keep to the structure of a document: its headings, its tables."""

import pytest
from test_stage_chunk import PROSE, chunks_of, of_one, overlaps


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
        "```html\n<table>\n</table>\n\n# no\n```",
        "<table>\n\n# no\n\n</table>\n```\n# no\n```",
        "one\ntwo\nthree\nfour\n\n---",
        "one\ntwo\nthree\nfour\nfive\n---",
    ],
)
def test_what_is_not_a_heading_does_not_enter_the_path(code: str) -> None:
    found = chunks_of(f"# Real\n\n{code}\n\n{PROSE * 60}")
    assert {piece.heading_path for piece in found} == {("Real",)}


def test_a_heading_right_above_or_below_an_html_table_counts() -> None:
    found = chunks_of(f"# A\n<table>\n<tr><td>{PROSE * 30}</td></tr>\n</table>\n# B\n{PROSE * 30}")
    assert {piece.heading_path for piece in found} == {("A",), ("B",)}


def test_front_matter_is_no_heading() -> None:
    assert {piece.heading_path for piece in chunks_of(f"---\ntitle: x\n---\n\n{PROSE * 60}")} == {()}
    assert chunks_of(f"---\ntitle: x\n---\n# A\n\n{PROSE * 60}")[-1].heading_path == ("A",)


def test_a_rule_above_a_heading_is_not_a_part_of_it() -> None:
    assert chunks_of(f"---\nA\n----\n\n{PROSE * 60}")[-1].heading_path == ("A",)


def test_a_fence_that_is_never_closed_reaches_to_the_end() -> None:
    found = chunks_of(f"# A\n\n```\n{PROSE * 30}\n\n# B\n\n{PROSE * 30}")
    assert {piece.heading_path for piece in found} == {("A",)}


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
