"""A large text is in memory about once, whatever is done with it."""

import tracemalloc
from collections.abc import Callable
from uuid import uuid4

import psutil

from ingestion_pipeline.domain import ParsedPage, ParsedText, sha256_of
from ingestion_pipeline.pipeline.freed_memory import give_back
from ingestion_pipeline.stages.chunk import iter_chunks, validate
from ingestion_pipeline.stages.normalise import normalise, normalise_encoded
from ingestion_pipeline.stages.sliced_chunks import SlicedChunks

PARAGRAPH = "The valve of the cold store \u2018north\u2019 was closed at noon, and nobody heard the alarm.\n\n"
PAGE = PARAGRAPH * 200
PAGES = 250


def pages() -> list[ParsedPage]:
    return [ParsedPage(number, f"# Page {number}\n\n{PAGE}") for number in range(1, PAGES + 1)]


def large_text() -> ParsedText:
    return normalise(pages())


def peak_bytes(work: Callable[[], object]) -> int:
    """How much more was allocated at the worst moment of `work` than before it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_chunks_of_a_large_text_are_those_of_any_text() -> None:
    document_id, parsed = uuid4(), large_text()
    chunks = list(iter_chunks(document_id, parsed))
    sliced = SlicedChunks(parsed.text, iter_chunks(document_id, parsed))
    assert list(sliced) == chunks
    assert len(sliced) == len(chunks) > 1000
    assert (sliced[3], sliced[-1], list(sliced[5:7])) == (chunks[3], chunks[-1], chunks[5:7])
    assert all(check.passed for check in validate(parsed, sliced))


def test_chunks_of_a_large_text_do_not_copy_it() -> None:
    parsed = large_text()
    taken = peak_bytes(lambda: SlicedChunks(parsed.text, iter_chunks(uuid4(), parsed)))
    assert taken < len(parsed.text) / 2
    assert peak_bytes(lambda: list(iter_chunks(uuid4(), parsed))) > len(parsed.text)


def test_pages_are_let_go_while_they_become_one_text() -> None:
    encoded = normalise_encoded(pages())
    assert encoded.decoded() == large_text()
    assert encoded.sha256 == sha256_of(large_text().text)
    taken = peak_bytes(lambda: normalise_encoded(pages()))  # the pages are made and let go within
    alone = peak_bytes(pages)
    assert taken < alone + len(encoded.data)


def test_freed_memory_of_many_small_blocks_goes_back_to_the_system() -> None:
    process = psutil.Process()
    blocks = [bytes(60_000) for _ in range(1000)]
    keeps_the_heap_open = bytes(60_000)
    del blocks
    held = process.memory_info().rss
    give_back()
    assert held - process.memory_info().rss > 40_000_000
    assert len(keeps_the_heap_open) == 60_000
