"""One, two and four worker processes, each with batches of its own, on the same documents."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from ingestion_pipeline_tests.performance import loading, worker
from ingestion_pipeline_tests.performance.corpus import Sizes
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Site, Surroundings
from ingestion_pipeline_tests.performance.throughput import loaded

WORKERS = (1, 2, 4)


def measure(here: Surroundings, sizes: Sizes) -> Iterator[Figure]:
    """Documents a second of Dagster runs side by side; the ratio is to one worker."""
    source = loaded(here, here.folder / "parallel", sizes)
    alone = 0.0
    for count in WORKERS:
        seconds = _seconds(here, source, sizes.documents, count)
        alone = alone or seconds
        what = f"Dagster, from parsed, {count} at once"
        against = None if count == 1 else sizes.documents / alone
        yield Figure("workers", what, sizes.documents / seconds, "documents/s", against, alone / seconds)
    here.drop(source)


def _seconds(here: Surroundings, source: Site, documents: int, count: int) -> float:
    """Wall clock of `count` processes that share four batches, from when all are ready to when all are done."""
    site = here.site(source)
    settings = here.settings(site, batch_documents=-(-documents // max(WORKERS)))
    with ExitStack() as stack:
        workers = [stack.enter_context(here.process()) for _ in range(count)]
        for run_in_it in workers:
            run_in_it(worker.prepare, settings, here.dagster(site))
        batches = workers[0](worker.claim)
        shares = [batches[number::count] for number in range(count)]
        with ThreadPoolExecutor(count) as threads:
            started = time.perf_counter()
            done = list(threads.map(lambda own, share: own(worker.run, share), workers, shares))
            seconds = time.perf_counter() - started
    assert sum(done) == documents, f"{sum(done)} of {documents} documents were claimed"
    loading.assert_complete(site.urls.owner)
    here.drop(site)
    return seconds
