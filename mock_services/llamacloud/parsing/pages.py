"""What a parser returns: pages of Markdown and text, or a failure with the vendor's code."""

from dataclasses import dataclass
from typing import TypeAlias

# [doc] the service keeps at most 64 KB of text a page; formats without pages are cut at paragraphs below that
MAX_PAGE_CHARACTERS = 64_000


@dataclass(frozen=True, slots=True)
class ParsedPage:
    """A page: its Markdown and plain text, or the error that prevented them; numbered from 1 once in a document."""

    markdown: str
    text: str
    error: str | None = None
    number: int = 0


Pages: TypeAlias = list[ParsedPage]


class DocumentError(Exception):
    """A document that cannot be parsed; `code` is the vendor's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)  # both arguments, so that it survives pickling
        self.code = code
        self.message = message


def paginate(markdown: str, text: str | None = None) -> Pages:
    """Pages of a format that has none. Joined again, the Markdown is the whole document, byte for byte."""
    pieces, rest = [], markdown
    while len(rest) > MAX_PAGE_CHARACTERS:
        cut = MAX_PAGE_CHARACTERS
        for separator in ("\n\n", "\n", " "):
            found = rest.rfind(separator, 1, MAX_PAGE_CHARACTERS)
            if found > 0:
                cut = found + len(separator)
                break
        pieces.append(rest[:cut])
        rest = rest[cut:]
    pieces.append(rest)
    if text is not None and len(pieces) == 1:
        return [ParsedPage(markdown, text)]
    return [ParsedPage(piece, piece) for piece in pieces]


def table(rows: list[list[str]]) -> str:
    """A Markdown table whose first row is the header; short rows are filled up, cell breaks and pipes made safe."""
    if not rows:
        return ""
    width = max(len(row) for row in rows)
    lines = []
    for position, row in enumerate(rows):
        cells = [" ".join(cell.replace("|", "\\|").split()) for cell in row] + [""] * (width - len(row))
        lines.append("| " + " | ".join(cells) + " |")
        if position == 0:
            lines.append("|" + " --- |" * width)
    return "\n".join(lines)
