"""The one form in which a document's text is stored, hashed and chunked.

Parsers give pages with whatever they found in the file. Here they become one text in Unicode NFC with `\\n` line ends and
without control characters, and pages that could not be read are left out but remembered. The same pages always give the
same text, and normalising a text that is normal already changes nothing.
"""

import re
import unicodedata
from collections.abc import Sequence

from ingestion_pipeline.domain import CheckResult, ParsedPage, ParsedText
from ingestion_pipeline.errors import InvalidDocumentError

PAGE_SEPARATOR = "\n\n"

# The control characters of Unicode category Cc but for tab and line feed, plus U+FEFF: at the start of a file it is a byte
# order mark, and elsewhere it has been deprecated since Unicode 3.2 in favour of U+2060.
_CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ufeff]")
_LINE_ENDS = re.compile("\\r\\n?|\\x85|\\u2028|\\u2029")
_SURROGATE = re.compile("[\\ud800-\\udfff]")
# What str.strip takes for white space, but for the line feed; bounded by \\S before it, so that it never backtracks far.
_TRAILING_SPACE = re.compile("[^\\S\\n]+$", re.MULTILINE)
_BLANK_LINES = re.compile("\\n{3,}")


def normalise(pages: Sequence[ParsedPage]) -> ParsedText:
    """One text of all pages that have any, joined by a blank line; `page_starts` are character offsets.

    `removed_characters` counts control characters taken out and lone surrogates replaced by U+FFFD. Blank pages take no part
    in `page_numbers`. Raises InvalidDocumentError `no_text` if nothing but white space is left.
    """
    texts: list[str] = []
    page_numbers: list[int] = []
    page_starts: list[int] = []
    failed_pages: list[int] = []
    removed = 0
    position = 0
    for page in sorted(pages, key=lambda page: page.page_number):
        if page.markdown is None:
            failed_pages.append(page.page_number)
            continue
        text, count = normalise_text(page.markdown)
        removed += count
        if not text:
            continue
        if texts:
            position += len(PAGE_SEPARATOR)
        texts.append(text)
        page_numbers.append(page.page_number)
        page_starts.append(position)
        position += len(text)
    if not texts:
        raise InvalidDocumentError(_no_text_message(len(pages), len(failed_pages)), code="no_text")
    return ParsedText(
        text=PAGE_SEPARATOR.join(texts),
        page_numbers=tuple(page_numbers),
        page_starts=tuple(page_starts),
        failed_pages=tuple(failed_pages),
        removed_characters=removed,
    )
