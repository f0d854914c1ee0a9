"""The one form in which a document's text is stored, hashed and chunked.

Parsers give pages with whatever they found in the file. Here they become one text in Unicode NFC with line feeds as
line ends and without control characters, and pages that could not be read are left out but remembered. The same pages
always give the same text, and normalising a text that is normal already changes nothing.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ingestion_pipeline.domain import CheckResult, ParsedPage, ParsedText
from ingestion_pipeline.errors import InvalidDocumentError

PAGE_SEPARATOR = "\n\n"

# Unicode category Cc but for tab and line feed, plus U+FEFF: at the start of a file it is a byte order mark, and
# elsewhere it has been deprecated since Unicode 3.2 in favour of U+2060.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]")
_BYTE_ORDER_MARK = "\ufeff"
# The others in UTF-8: single bytes, and those of two.
_CONTROL_BYTES = bytes(code for code in (*range(0x20), 0x7F) if code not in b"\t\n")
_CONTROL_PAIR = re.compile(rb"\xc2[\x80-\x9f]")
# Form feeds and vertical tabs end a line too: taking them out would join the words beside them.
_LINE_ENDS = "\r\x0b\x0c\u2028\u2029"
_LINE_END = re.compile(r"\r\n?|[\x0b\x0c\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Each begins with a single character, to which `re` skips.
_SPACED_LINE_END = re.compile(r"\n(?<=[^\S\n]\n)")
_BLANK_LINES = re.compile(r"\n(?=\n\n\n)\n+")
_BLOCK_CHARACTERS = 1 << 16


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A normalised text as it is stored, in UTF-8: of a large one half the memory of its ParsedText, or a quarter."""

    data: bytes
    page_numbers: tuple[int, ...]
    page_starts: tuple[int, ...]
    failed_pages: tuple[int, ...]
    removed_characters: int

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.data).digest()

    def decoded(self) -> ParsedText:
        return ParsedText(
            self.data.decode(), self.page_numbers, self.page_starts, self.failed_pages, self.removed_characters
        )


def normalise(pages: Sequence[ParsedPage]) -> ParsedText:
    """What normalise_encoded() makes, decoded."""
    return normalise_encoded(pages).decoded()


def normalise_encoded(pages: Sequence[ParsedPage]) -> EncodedText:
    """One text of all pages that have any, joined by a blank line; `page_starts` are character offsets.

    `removed_characters` counts control characters taken out and lone surrogates replaced by U+FFFD. Blank pages take no
    part in `page_numbers`. Raises InvalidDocumentError `no_text` if nothing but white space is left.

    Pages that nobody else holds are let go one by one, so that a large document is not in memory twice.
    """
    parts: list[bytes] = []
    page_numbers: list[int] = []
    page_starts: list[int] = []
    failed_pages: list[int] = []
    removed = 0
    position = 0
    waiting = sorted(pages, key=lambda page: page.page_number, reverse=True)
    count = len(waiting)
    del pages
    while waiting:
        page = waiting.pop()
        if page.markdown is None:
            failed_pages.append(page.page_number)
            continue
        text, taken_out = normalise_text(page.markdown)
        removed += taken_out
        if not text:
            continue
        if parts:
            position += len(PAGE_SEPARATOR)
        parts.append(text.encode())
        page_numbers.append(page.page_number)
        page_starts.append(position)
        position += len(text)
    if not parts:
        raise InvalidDocumentError(_no_text_message(count, len(failed_pages)), code="no_text")
    return EncodedText(
        data=PAGE_SEPARATOR.encode().join(parts),
        page_numbers=tuple(page_numbers),
        page_starts=tuple(page_starts),
        failed_pages=tuple(failed_pages),
        removed_characters=removed,
    )


def normalise_text(text: str) -> tuple[str, int]:
    """The normal form of one page, and how many characters were taken out or replaced.

    Two blank lines in a row stay, for they mean something in code; more become two. Empty lines at both ends go,
    indentation stays.
    """
    if any(end in text for end in _LINE_ENDS):
        text = _LINE_END.sub("\n", text)
    removed = 0
    if _has_controls(text):
        text, replaced = _SURROGATE.subn("\ufffd", text)
        text, removed = _CONTROL.subn("", text)
        removed += replaced
    # After the removals: they can bring a letter and its accent together.
    text = unicodedata.normalize("NFC", text)
    if _has_trailing_spaces(text):
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    text = _BLANK_LINES.sub("\n\n\n", text)
    return text.strip("\n"), removed


def _has_controls(text: str) -> bool:
    """Whether there are control characters or surrogates. In bytes that is a fifth of the work of a pattern; in blocks,
    so that a large text is not copied."""
    if _BYTE_ORDER_MARK in text:
        return True
    for start in range(0, len(text), _BLOCK_CHARACTERS):
        try:
            block = text[start : start + _BLOCK_CHARACTERS].encode()
        except UnicodeEncodeError:
            return True
        if len(block.translate(None, _CONTROL_BYTES)) < len(block) or _CONTROL_PAIR.search(block):
            return True
    return False


def _has_trailing_spaces(text: str) -> bool:
    """Whether a line ends with a space. A pattern for whole runs of spaces would be quadratic in their length."""
    return _SPACED_LINE_END.search(text) is not None or (text[-1:].isspace() and text[-1] != "\n")


def _no_text_message(page_count: int, failed_count: int) -> str:
    if page_count == 0:
        return "The parser returned no pages."
    if failed_count == page_count:
        return f"The parser could not read any of the {page_count:,} pages."
    failed = f" {failed_count:,} of its {page_count:,} pages could not be read." if failed_count else ""
    return f"The document has no text.{failed}"


def check_text_present(parsed: ParsedText) -> CheckResult:
    """Passes if there is more than white space."""
    passed = bool(parsed.text) and not parsed.text.isspace()
    message = "The text is there." if passed else "The parsed text is empty."
    facts: dict[str, int | float | str] = {
        "characters": len(parsed.text),
        "pages": len(parsed.page_numbers),
        "failed_pages": len(parsed.failed_pages),
        "removed_characters": parsed.removed_characters,
    }
    return CheckResult("text_present", passed, message, facts)


def check_text_hash(found_sha256: bytes, recorded_sha256: bytes) -> CheckResult:
    """Passes if the text, as it was read, has the SHA-256 (32 bytes) that was recorded when it was stored."""
    passed = found_sha256 == recorded_sha256
    message = (
        "The text is the one that was recorded." if passed else "The stored text is not the one that was recorded."
    )
    return CheckResult(
        "text_hash_matches", passed, message, {"sha256": found_sha256.hex(), "recorded_sha256": recorded_sha256.hex()}
    )


def check_page_starts(parsed: ParsedText) -> CheckResult:
    """Passes if each page has a start, the first is at 0, and starts and numbers ascend within the text."""
    starts, numbers = parsed.page_starts, parsed.page_numbers
    if len(starts) != len(numbers) or not starts:
        problem = f"There are {len(starts):,} page starts for {len(numbers):,} pages."
    elif starts[0] != 0 or starts[-1] >= len(parsed.text):
        problem = f"Pages start from {starts[0]:,} to {starts[-1]:,} in a text of {len(parsed.text):,} characters."
    elif not _ascends(starts) or not _ascends(numbers):
        problem = "The page starts or the page numbers do not ascend."
    else:
        problem = ""
    return CheckResult(
        "page_starts_in_order", not problem, problem or "The page starts are in order.", {"pages": len(starts)}
    )


def validate(parsed: ParsedText, found_sha256: bytes, recorded_sha256: bytes) -> list[CheckResult]:
    """All checks of a parsed text that was read again from the store, with the hash of what was read."""
    return [check_text_present(parsed), check_text_hash(found_sha256, recorded_sha256), check_page_starts(parsed)]


def _ascends(values: Sequence[int]) -> bool:
    return all(before < after for before, after in pairwise(values))
