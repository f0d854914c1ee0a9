"""The `page_ranges` of a job: which pages of a document are wanted."""

import re

from mock_services.llamacloud.parsing import ParsedPage

_RANGES = re.compile(r"\s*\d+(\s*-\s*\d+)?\s*(,\s*\d+(\s*-\s*\d+)?\s*)*")


def is_page_selection(text: str) -> bool:
    """Whether a text such as `1,3,5-8` selects pages."""
    return _RANGES.fullmatch(text) is not None


def selected_pages(pages: list[ParsedPage], target_pages: str | None, max_pages: int | None) -> list[ParsedPage]:
    """The wanted pages in order; `target_pages` takes precedence over `max_pages`, numbers past the end are ignored."""
    if not target_pages:
        return pages[:max_pages]
    wanted: set[int] = set()
    for part in target_pages.split(","):
        first, _, last = part.partition("-")
        wanted.update(range(int(first), min(int(last or first), len(pages)) + 1))
    return [page for page in pages if page.number in wanted]
