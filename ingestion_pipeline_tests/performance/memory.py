"""The largest resident set of a run's process, by the size of one document and by the number of documents."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ingestion_pipeline_tests.performance import loading, worker
from ingestion_pipeline_tests.performance.corpus import Sizes, document, write_corpus
from ingestion_pipeline_tests.performance.processes import peak_bytes
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Surroundings

MEGABYTE = 1_000_000
MOST_MEGABYTES = 600.0


def measure(here: Surroundings, megabytes: Sequence[int], documents: Sequence[int]) -> Iterator[Figure]:
    """One run each, for one document of so many MB of Markdown, and for so many documents of 8 KB."""
    for size in megabytes:
        corpus = here.folder / f"memory-{size}-mb"
        corpus.mkdir()
        file = corpus / "document.md"
        file.write_text(document(f"of {size} MB", size * MEGABYTE))
        yield from _figures(here, f"one document of {size} MB", corpus, [file], limited=size == max(megabytes))
        file.unlink()
    for count in documents:
        corpus = here.folder / f"memory-{count}-documents"
        yield from _figures(here, f"{count} documents of 8 KB", corpus, write_corpus(corpus, Sizes(count, 0)))


def _figures(
    here: Surroundings, what: str, corpus: Path, files: Sequence[Path], *, limited: bool = False
) -> Iterator[Figure]:
    site = here.site()
    settings = here.settings(site, batch_documents=2000, vendor_timeout_seconds=600)
    with here.process() as run_in_it:
        run_in_it(loading.load_parsed, settings, site.urls.owner, files, here.dagster(site))
    with here.process() as run_in_it:
        run_in_it(worker.prepare, settings, here.dagster(site))
        ready = run_in_it(peak_bytes)
        done = run_in_it(worker.work)
    loading.assert_complete(site.urls.owner)
    here.drop(site)
    limit_site = here.site()
    against, _ = here.limit(corpus, limit_site)
    here.drop(limit_site)
    peak = done.peak_bytes / MEGABYTE
    wished, met = (f"< {MOST_MEGABYTES:g}", peak < MOST_MEGABYTES) if limited else ("", None)
    yield Figure("memory", f"{what}: before", ready / MEGABYTE, "MB")
    yield Figure("memory", f"{what}: peak", peak, "MB", against.peak_bytes / MEGABYTE, target=wished, met=met)
    yield Figure("memory", f"{what}: time", done.seconds, "s", against.seconds, against.seconds / done.seconds)
