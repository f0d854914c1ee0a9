"""The pieces of a text that chunks are packed from, and the places where a piece may be cut further.

A segment is a whole block where that fits into a chunk, else some lines of it, else sentences, else words, else
graphemes. A table row is never cut (Markdown: one line; HTML: from `<tr` to `</tr>`), unless it is over the hard limit
alone: then between cells, and in a cell over the limit as in any other text.

Tokens of segments that begin and end at lines add up exactly in cl100k_base: its pattern takes all white space up to
the last line feed into one piece, so a token never spans from one line with text into the next. Elsewhere (`is_exact`
is false) the sum is an estimate. This needs normalised text, in which a blank line has no spaces.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple, TypeVar

from ingestion_pipeline.stages.outline import Block, Outline
from ingestion_pipeline.stages.tokens import count_each, count_tokens

# Text has about four characters a token: a longer block is cut into parts before it is counted. Where it would have
# fitted after all, its parts are packed into one chunk again.
_CHARACTERS_A_TOKEN = 5
_COUNTED_AT_ONCE = 1 << 16  # characters
_MAX_GRAPHEME = 32
_ZERO_WIDTH_JOINER = "\u200d"

# One set of characters in front of both alternatives, so that `re` skips to these instead of trying each character.
_SENTENCE_END = re.compile(
    r"[.!?…\u3002\uff01\uff1f](?:(?<=[.!?…])[\"')\]»\u201d\u2019]*\s+|(?<=[\u3002\uff01\uff1f])[\u3002\uff01\uff1f]*)"
)
_ROW_TAG = re.compile(r"<(/?)(table|tr)\b[^>]{0,4096}>\s*", re.IGNORECASE)
_CELL_END = re.compile(r"(?<!\\)\||</t[dh]\s*>", re.IGNORECASE)
_SPACE = re.compile(r"\s")


class Kind(IntEnum):
    """What a segment is made of."""

    HEADING = 0
    BLOCK = 1
    LINES = 2
    ROWS = 3
    SENTENCES = 4
    WORDS = 5
    OVERLAP = 6


class Segment(NamedTuple):
    """Characters `start` to `end` of the text, white space after them included, and their tokens.

    `rank` says how good a place its start is to begin a chunk, lower is better: 1 to 6 a heading of that level, 7 a
    block, then by kind.
    """

    start: int
    end: int
    tokens: int
    kind: Kind
    rank: int
    path: tuple[str, ...]
    is_exact: bool


Piece = TypeVar("Piece", Block, tuple[int, int, Kind])  # its start and end come first

_BLOCK_RANK = 7
_RANK = {Kind.LINES: 8, Kind.ROWS: 8, Kind.SENTENCES: 9, Kind.WORDS: 10}


class Segmenter:
    """Cuts a text into segments of at most `limit` tokens; rows may have up to `hard_limit`, a long grapheme 128."""

    def __init__(self, text: str, limit: int, hard_limit: int) -> None:
        self._text = text
        self._limit = limit
        self._hard_limit = hard_limit
        # A character has at most four bytes, and a token at least one: so many characters are never over the limit.
        self._grain = max(limit // 4, 1)

    def segments(self) -> Iterator[Segment]:
        limit = self._limit
        longest = limit * _CHARACTERS_A_TOKEN
        plain = Kind.BLOCK
        for block, tokens in self._counted(Outline(self._text).blocks(), longest + 1):
            start, end, level, path = block
            if tokens > limit or end - start > longest:
                yield from self._parts_of_block(block)
            elif level:
                yield Segment(start, end, tokens, Kind.HEADING, level, path, True)
            else:
                yield Segment(start, end, tokens, plain, _BLOCK_RANK, path, True)

    def finer(self, segment: Segment) -> list[Segment]:
        """The parts of a block or a line; empty if there is one only or the segment is not to be cut."""
        if segment.kind is Kind.BLOCK:
            block = Block(segment.start, segment.end, 0, segment.path)
            parts = list(self._parts_of_block(block))
            if len(parts) == 1 and parts[0].kind is Kind.LINES:
                parts = list(self._sentences(segment.start, segment.end, segment.path))
        elif segment.kind is Kind.LINES:
            parts = list(self._sentences(segment.start, segment.end, segment.path))
        else:
            return []
        if len(parts) < 2:
            return []
        return [parts[0]._replace(rank=segment.rank), *parts[1:]]

    def _parts_of_block(self, block: Block) -> Iterator[Segment]:
        rank = block.level or _BLOCK_RANK
        for part in self._lines(block.start, block.end, block.path):
            yield part if part.start > block.start else part._replace(rank=rank)

    def _lines(self, start: int, end: int, path: tuple[str, ...]) -> Iterator[Segment]:
        text = self._text
        is_html = _has_html_row(text, start, end)
        pieces = _html_rows(text, start, end) if is_html else _lines_and_rows(text, start, end)
        for (piece_start, piece_end, kind), tokens in self._counted(self._grouped(pieces)):
            if tokens <= (self._hard_limit if kind is Kind.ROWS else self._limit):
                yield Segment(piece_start, piece_end, tokens, kind, _RANK[kind], path, not is_html)
            elif kind is Kind.ROWS:
                yield from self._cells(piece_start, piece_end, path)
            else:
                yield from self._sentences(piece_start, piece_end, path)

    def _cells(self, start: int, end: int, path: tuple[str, ...]) -> Iterator[Segment]:
        """A row over the hard limit. A cell stays whole unless it is over that limit too."""
        text = self._text
        cells = ((cell_start, cell_end, Kind.ROWS) for cell_start, cell_end in _cut_after(_CELL_END, text, start, end))
        for (cell_start, cell_end, kind), tokens in self._counted(self._grouped(cells)):
            if tokens > self._hard_limit:
                yield from self._words(cell_start, cell_end, path)
            else:
                yield Segment(cell_start, cell_end, tokens, kind, _RANK[kind], path, False)

    def _sentences(self, start: int, end: int, path: tuple[str, ...]) -> Iterator[Segment]:
        text = self._text
        kind = Kind.SENTENCES
        pieces = (
            (piece_start, piece_end, kind) for piece_start, piece_end in _cut_after(_SENTENCE_END, text, start, end)
        )
        for (piece_start, piece_end, _), tokens in self._counted(self._grouped(pieces)):
            if tokens > self._limit:
                yield from self._words(piece_start, piece_end, path)
            else:
                yield Segment(piece_start, piece_end, tokens, kind, _RANK[kind], path, False)

    def _words(self, start: int, end: int, path: tuple[str, ...]) -> Iterator[Segment]:
        text = self._text
        while start < end:
            cut = min(start + self._grain, end)
            if cut < end:
                space = _last_space(text, start, cut)
                cut = space + 1 if space > start else grapheme_boundary(text, start, cut, end)
            tokens = count_tokens(text[start:cut])
            yield Segment(start, cut, tokens, Kind.WORDS, _RANK[Kind.WORDS], path, False)
            start = cut

    def _counted(self, pieces: Iterable[Piece], most: int = sys.maxsize) -> Iterator[tuple[Piece, int]]:
        """Pieces and their tokens, or those of their first `most` characters; some are counted ahead."""
        text = self._text
        window: list[Piece] = []
        texts: list[str] = []
        size = 0
        for piece in pieces:
            start, end = piece[0], piece[1]
            window.append(piece)
            texts.append(text[start : min(end, start + most)])
            size += end - start
            if size >= _COUNTED_AT_ONCE:
                yield from zip(window, count_each(texts), strict=True)
                window, texts, size = [], [], 0
        yield from zip(window, count_each(texts), strict=True)

    def _grouped(self, pieces: Iterable[tuple[int, int, Kind]]) -> Iterator[tuple[int, int, Kind]]:
        """Neighbours of one kind joined up to the grain, for each segment costs time whatever its size."""
        group_start = group_end = -1
        group_kind = Kind.LINES
        for start, end, kind in pieces:
            if group_start >= 0 and (kind is not group_kind or end - group_start > self._grain):
                yield group_start, group_end, group_kind
                group_start = -1
            if group_start < 0:
                group_start, group_kind = start, kind
            group_end = end
        if group_start >= 0:
            yield group_start, group_end, group_kind


def _lines_and_rows(text: str, start: int, end: int) -> Iterator[tuple[int, int, Kind]]:
    """Lines, told apart from rows: lines that begin with a pipe, and those from the line above a delimiter row on."""
    has_pipe = text.find("|", start, end) >= 0
    is_table = False
    while start < end:
        line_end = text.find("\n", start, end) + 1 or end
        while line_end < end and text[line_end] == "\n":
            line_end += 1
        kind = Kind.LINES
        if has_pipe:
            if not is_table and line_end < end and text.find("|", start, line_end) >= 0:
                next_end = text.find("\n", line_end, end)
                is_table = _is_delimiter_row(text[line_end : end if next_end < 0 else next_end])
            if is_table or text[start:line_end].lstrip(" \t>").startswith("|"):
                kind = Kind.ROWS
        yield start, line_end, kind
        start = line_end


def _is_delimiter_row(line: str) -> bool:
    return "|" in line and "-" in line and not line.strip(" \t>|:-")


def _has_html_row(text: str, start: int, end: int) -> bool:
    return text.find("<tr", start, end) >= 0 or text.find("<TR", start, end) >= 0


def _html_rows(text: str, start: int, end: int) -> Iterator[tuple[int, int, Kind]]:
    """Rows of the outermost HTML tables, and what is between them by lines.

    A row ends at its `</tr>` or, as HTML allows, where the next row begins or the table ends; rows of tables within a
    cell are parts of it.
    """
    depth = 0
    row_start = -1
    position = start
    for tag in _ROW_TAG.finditer(text, start, end):
        is_closing, is_table = bool(tag[1]), tag[2].lower() == "table"
        if is_table:
            depth = max(depth + (-1 if is_closing else 1), 0)
        if depth > 1 or (is_table and not is_closing) or (is_table and depth == 1):
            continue
        if row_start >= 0:
            row_end = tag.end() if is_closing and not is_table else tag.start()
            yield row_start, row_end, Kind.ROWS
            position, row_start = row_end, -1
        if not is_closing:
            if position < tag.start():
                yield from _lines_and_rows(text, position, tag.start())
            row_start = position = tag.start()
    if row_start >= 0:
        yield row_start, end, Kind.ROWS
    elif position < end:
        yield from _lines_and_rows(text, position, end)


def _cut_after(pattern: re.Pattern[str], text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text, start, end):
        yield start, match.end()
        start = match.end()
    if start < end:
        yield start, end


def _last_space(text: str, start: int, end: int) -> int:
    """The position of the last white space, or -1."""
    space = text.rfind(" ", start, end)
    if space >= 0:
        return space
    return max((match.start() for match in _SPACE.finditer(text, start, end)), default=-1)


def grapheme_boundary(text: str, start: int, wanted: int, end: int) -> int:
    """A place after `start`, best at or before `wanted`, that cuts no grapheme of up to 32 code points.

    An approximation of UAX #29: marks, joiners, modifiers, flags and Hangul syllables stay together.
    """
    for cut in range(wanted, max(start, wanted - _MAX_GRAPHEME), -1):
        if _is_boundary(text, start, cut):
            return cut
    for cut in range(wanted + 1, min(end, wanted + _MAX_GRAPHEME)):
        if _is_boundary(text, start, cut):
            return cut
    return end if end - wanted <= _MAX_GRAPHEME else wanted


def _is_boundary(text: str, start: int, cut: int) -> bool:
    before, after = text[cut - 1], text[cut]
    if after < "\u0300":
        return before != "\r" or after != "\n"
    if before == _ZERO_WIDTH_JOINER or after == _ZERO_WIDTH_JOINER or unicodedata.category(after)[0] == "M":
        return False
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f" or after == "\u200c":
        return False
    if _is_flag_letter(after) and _is_flag_letter(before):
        letters = 0
        while letters < cut - start and _is_flag_letter(text[cut - 1 - letters]):
            letters += 1
        return letters % 2 == 0
    # Decomposed Hangul: vowels and final consonants join what is before them.
    return not ("\u1160" <= after <= "\u11ff" or "\ud7b0" <= after <= "\ud7fb")


def _is_flag_letter(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
