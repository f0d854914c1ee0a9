"""Search without and with a vector index, in half and in full precision; what the index costs to build and to keep."""

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ingestion_pipeline.adapters.postgres.catalogue import PostgresCatalogue
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.migrations import Migrator
from ingestion_pipeline.adapters.postgres.vector_index import BuildOptions, VectorIndex
from ingestion_pipeline.domain import Precision
from ingestion_pipeline_tests.crowded_store import OWNER
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Site, Surroundings
from ingestion_pipeline_tests.vector_library import add_vectors, analyse, topical_vectors

MODEL = "text-embedding-3-small"
LIMIT = 10
AT_ONCE = 5_000
LATE = 500
QUERIES = topical_vectors(40, seed=99)


def measure_search(here: Surroundings, sizes: Sequence[int], rounds: int) -> Iterator[Figure]:
    """One owner's vectors: exact search at each size, then the index over the most."""
    for precision in Precision:
        site = here.site()
        Migrator(site.urls.owner).set_precision(precision)
        searched = _Searched(site, precision, rounds)
        stored = 0
        for size in sizes:
            seconds = sum(searched.add(min(AT_ONCE, size - done), seed=done) for done in range(stored, size, AT_ONCE))
            yield Figure(
                f"{precision} precision", f"storing, up to {size:,}", 1000 * seconds / (size - stored), "ms a vector"
            )
            stored = size
            analyse(site.urls.owner)
            exact, chunks = searched.search()
            yield Figure(f"{precision} precision", f"exact search of {size:,}", exact, "ms")
        yield from _with_index(searched, sizes[-1], exact, chunks)
        here.drop(site)


def _with_index(searched: "_Searched", size: int, exact: float, chunks: list[set[object]]) -> Iterator[Figure]:
    name = f"{searched.precision} precision"
    index = VectorIndex(searched.site.urls.owner)
    started = time.perf_counter()
    index.build(BuildOptions(memory_mb=1024), lambda progress: None)
    yield Figure(name, f"building the index of {size:,}", time.perf_counter() - started, "s")
    found = index.status()
    yield Figure(name, "the vectors", found.vector_bytes / 1e6, "MB")
    yield Figure(name, "the index", found.index_bytes / 1e6, "MB")
    indexed, hits = searched.search()
    recall = sum(len(near & hit) for near, hit in zip(chunks, hits, strict=True)) / sum(map(len, chunks))
    yield Figure(name, f"search of {size:,} by the index", indexed, "ms", against=exact, ratio=exact / indexed)
    yield Figure(name, "which share of the nearest it finds", recall, "")
    seconds = searched.add(LATE, seed=10**6)
    yield Figure(name, "storing into the index", 1000 * seconds / LATE, "ms a vector")


class _Searched:
    """A site whose owner stores vectors and asks."""

    def __init__(self, site: Site, precision: Precision, rounds: int) -> None:
        self.site = site
        self.precision = precision
        self._rounds = rounds
        self._catalogue = PostgresCatalogue(
            Database(site.urls.api, application_name="ingest-performance"), precision=precision
        )

    def add(self, count: int, seed: int) -> float:
        """Store vectors; returns the seconds that the database took."""
        vectors: NDArray[np.float32] = topical_vectors(count, seed=seed)
        started = time.perf_counter()
        add_vectors(self.site.urls.owner, OWNER, vectors, precision=self.precision)
        return time.perf_counter() - started

    def search(self) -> tuple[float, list[set[object]]]:
        """Median milliseconds of a search once everything is in memory, and the chunks that each question found."""
        chunks = [self._found(query) for query in QUERIES]
        return median(_milliseconds(lambda q=query: self._found(q)) for query in QUERIES[: 3 * self._rounds]), chunks

    def _found(self, query: NDArray[np.float32]) -> set[object]:
        hits = self._catalogue.search(OWNER, vector=query.tolist(), model=MODEL, limit=LIMIT)
        return {hit.chunk_id for hit in hits}


def _milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000
