"""The blocks of a Markdown text and the headings that they stand under.

A block is what lies between blank lines, cut further at headings. Headings are those of CommonMark (ATX and Setext)
outside fenced code and front matter; a Setext title of more than three lines is taken for a paragraph above a rule. An
HTML table is one block even if it has blank lines in it.

The text is searched in place, for signs that few blocks have, and only a block with a sign is looked at line by line.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_SETEXT_LINES = 3

_MARKER = re.compile(
    r"^ {0,3}(?:(?P<atx>#{1,6})(?=[ \t\n]|\Z)|(?P<ticks>`{3,})(?=[^`\n]*$)|(?P<tildes>~{3,})|(?P<setext>=+|-+)[ \t]*$)",
    re.MULTILINE,
)
# A block without any of these has neither marker nor table. Each begins with a single character, which `re` finds far
# faster than a set of them or several in a row.
_SIGNS = [re.compile(sign, re.MULTILINE) for sign in ("#", "`(?=``)", "~(?=~~)", "=$", "-$", "<(?=[tT])")]
_FRONT_MATTER = re.compile(r"---\n(?:.*\n)*?---(?=\n|\Z)")
_BLANK_LINES = re.compile("\n\n+")
_NO_PARAGRAPH = re.compile(r" {0,3}(?:[-*+][ \t]|[>|<]|\d{1,9}[.)][ \t])| {4}|\t")
_TABLE_TAG = re.compile(r"<(/?)table\b", re.IGNORECASE)


class Block(NamedTuple):
    """Characters `start` to `end` of the text, blank lines after it included.

    `level` is 1 to 6 for a heading and 0 for the rest; `path` are the headings in force, its own title included.
    """

    start: int
    end: int
    level: int
    path: tuple[str, ...]


class Outline:
    """Walks through a text once; `blocks` yields what covers it without gaps, but for blank lines at its start."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._fence = ""
        self._headings: list[tuple[int, str]] = []
        self._path: tuple[str, ...] = ()
        self._has_unclosed_table = False
        self._next_signs = [-1 for _ in _SIGNS]
        self._next_sign = -1

    def blocks(self) -> Iterator[Block]:
        text = self._text
        length = len(text)
        position = self._after_newlines(0)
        front_matter = _FRONT_MATTER.match(text, position, self._block_end(position))
        if front_matter:
            end = self._after_newlines(front_matter.end())
            yield Block(position, end, 0, ())
            position = end
        while position < length:
            if self._next_sign < position:
                self._look_for_signs(position)
            if not self._fence:
                for blank in _BLANK_LINES.finditer(text, position, self._next_sign):
                    yield Block(position, blank.end(), 0, self._path)
                    position = blank.end()
                if self._next_sign == length:
                    if position < length:
                        yield Block(position, length, 0, self._path)
                    return
            end = self._block_end(position)
            if not self._fence and (table := self._table(position, end)):
                table_start, table_end = table
                if table_start > position:
                    yield from self._marked_blocks(position, table_start, table_start)
                following = table_start
                if not self._fence:  # else it is code
                    following = self._after_newlines(table_end)
                    yield Block(table_start, following, 0, self._path)
            else:
                following = self._after_newlines(end)
                yield from self._marked_blocks(position, end, following)
            position = following

    def _look_for_signs(self, position: int) -> None:
        for index, sign in enumerate(_SIGNS):
            if self._next_signs[index] < position:
                self._next_signs[index] = self._find(sign, position)
        self._next_sign = min(self._next_signs)

    def _find(self, sign: re.Pattern[str], position: int) -> int:
        """Where the sign comes next, or the length of the text."""
        text = self._text
        start = text.find(sign.pattern[0], position)  # far faster, and many texts have no such character
        match = sign.search(text, start) if start >= 0 else None
        return match.start() if match else len(text)

    def _block_end(self, position: int) -> int:
        end = self._text.find("\n\n", position)
        return len(self._text) if end < 0 else end

    def _after_newlines(self, position: int) -> int:
        text, length = self._text, len(self._text)
        while position < length and text[position] == "\n":
            position += 1
        return position

    def _table(self, start: int, end: int) -> tuple[int, int] | None:
        """The lines, by start and end, of the HTML table that starts between `start` and `end`.

        None if there is none, or if it is never closed.
        """
        text = self._text
        opening = None if self._has_unclosed_table else _TABLE_TAG.search(text, start, end)
        if opening is None:
            return None
        depth = 0
        for tag in _TABLE_TAG.finditer(text, opening.start()):
            depth += -1 if tag[1] else 1
            if depth <= 0:
                line_end = text.find("\n", tag.end())
                table_start = max(text.rfind("\n", start, opening.start()) + 1, start)
                return table_start, len(text) if line_end < 0 else line_end
        self._has_unclosed_table = True  # not to search to the end of the text for each table
        return None

    def _marked_blocks(self, start: int, end: int, following: int) -> Iterator[Block]:
        """The parts of the block from `start` to `end`; the last one reaches to `following`."""
        text = self._text
        for marker in _MARKER.finditer(text, start, end):
            if self._is_fence(marker) or self._fence:
                continue
            line_end = text.find("\n", marker.end(), end)
            heading_end = following if line_end < 0 else line_end + 1
            if marker["atx"]:
                if marker.start() > start:
                    yield Block(start, marker.start(), 0, self._path)
                heading_start = marker.start()
                level = len(marker["atx"])
                title = _without_closing_hashes(text[marker.end() : end if line_end < 0 else line_end])
            else:
                heading_start = start
                level = 1 if "=" in marker["setext"] else 2
                title = text[start : marker.start()]
                if not title and "---" in marker["setext"]:
                    yield Block(start, heading_end, 0, self._path)  # a rule
                    start = heading_end
                    continue
                if not title or title.count("\n") > MAX_SETEXT_LINES or _NO_PARAGRAPH.match(title):
                    continue
                title = " ".join(title.split())
            self._enter(level, title)
            yield Block(heading_start, heading_end, level, self._path)
            start = heading_end
        if start < following:
            yield Block(start, following, 0, self._path)

    def _is_fence(self, marker: re.Match[str]) -> bool:
        """Whether the line opens or closes fenced code."""
        fence = marker["ticks"] or marker["tildes"]
        if not fence:
            return False
        if not self._fence:
            self._fence = fence
            return True
        line_end = self._text.find("\n", marker.end(), marker.endpos)
        rest = self._text[
            marker.end("ticks" if marker["ticks"] else "tildes") : marker.endpos if line_end < 0 else line_end
        ]
        if fence.startswith(self._fence) and (not rest or rest.isspace()):
            self._fence = ""
        return True

    def _enter(self, level: int, title: str) -> None:
        while self._headings and self._headings[-1][0] >= level:
            self._headings.pop()
        self._headings.append((level, title))
        self._path = tuple(title for _, title in self._headings if title)


def _without_closing_hashes(title: str) -> str:
    title = title.strip()
    bare = title.rstrip("#")
    return bare.rstrip() if not bare or bare[-1] in " \t" else title
