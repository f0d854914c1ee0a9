"""Everything uploaded to the whole stack, and then the same again: what does it cost to learn that nothing changed?"""

import time
from collections.abc import Iterator

from ingestion_pipeline_tests.performance.corpus import Sizes, write_corpus
from ingestion_pipeline_tests.performance.live import Live, live
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Surroundings

LEAST_TIMES_FASTER = 50.0
POLL_SECONDS = 0.1
TIMEOUT_SECONDS = 3600.0


def measure(here: Surroundings, sizes: Sizes) -> Iterator[Figure]:
    """From the first POST until all are complete; then what `ingest upload` does, and a client that sends everything.

    The limit does both, too.
    """
    corpus = here.folder / "unchanged"
    files = write_corpus(corpus, sizes)
    with live(here, "unchanged-stack") as stack:
        before = stack.cpu_by_service()
        started = time.perf_counter()
        stack.upload_all(files)
        _await_complete(stack, sizes.documents)
        first = time.perf_counter() - started
        after = stack.cpu_by_service()
        here.forget_calls()
        started = time.perf_counter()
        known = stack.upload_by_client(files)
        again = time.perf_counter() - started
        assert known == sizes.documents, f"{known} of {sizes.documents} were there already"
        started = time.perf_counter()
        stack.upload_all(files)
        posted = time.perf_counter() - started
        asked = here.calls("llamacloud") + here.calls("openai")
    site = here.site()
    limit_first, _ = here.limit(corpus, site)
    limit_again, _ = here.limit(corpus, site)
    here.drop(site)
    limit_rate = sizes.documents / limit_first.seconds
    rate = sizes.documents / first
    yield Figure("whole stack", "upload to complete", rate, "documents/s", limit_rate, rate / limit_rate)
    for name in sorted(after, key=lambda service: before.get(service, 0.0) - after[service]):
        used = (after[name] - before.get(name, 0.0)) / sizes.documents * 1000
        yield Figure("whole stack", f"CPU, {name}", used, "ms/document")
    wished = f"ratio >= {LEAST_TIMES_FASTER:g}"
    name = "uploaded again, unchanged"
    yield Figure(name, "all documents", again, "s", first, first / again, wished, first / again >= LEAST_TIMES_FASTER)
    yield Figure(name, "each document", again / sizes.documents * 1000, "ms/document")
    yield Figure(name, "all documents, sent whole by a client that does not ask", posted, "s", first, first / posted)
    yield Figure(name, "calls to vendors", asked, "calls", target="0", met=asked == 0)
    faster = limit_first.seconds / limit_again.seconds
    yield Figure(name, "the limit, all documents", limit_again.seconds, "s", limit_first.seconds, faster)


def _await_complete(stack: Live, documents: int) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while (counted := stack.count()).get("complete", 0) < documents:
        assert time.monotonic() < deadline, f"not complete within {TIMEOUT_SECONDS:.0f} s: {counted}"
        time.sleep(POLL_SECONDS)
