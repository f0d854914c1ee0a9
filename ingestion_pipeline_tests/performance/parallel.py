"""One, two and four worker processes, each with batches of its own, on the same documents."""

from collections.abc import Iterator

from ingestion_pipeline_tests.performance.corpus import Sizes
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Surroundings
from ingestion_pipeline_tests.performance.throughput import loaded, pipeline_round

WORKERS = (1, 2, 4)


def measure(here: Surroundings, sizes: Sizes) -> Iterator[Figure]:
    """Documents a second of Dagster runs side by side; the ratio is to one worker."""
    source = loaded(here, here.folder / "parallel", sizes)
    alone = 0.0
    for count in WORKERS:
        seconds = pipeline_round(here, source, sizes, dagster=True, at_once=count).seconds
        alone = alone or seconds
        what = f"Dagster, from parsed, {count} at once"
        against = None if count == 1 else sizes.documents / alone
        yield Figure("workers", what, sizes.documents / seconds, "documents/s", against, alone / seconds)
    here.drop(source)
