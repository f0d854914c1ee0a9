"""The whole line after parsing, with and without Dagster, against the limit on the same texts."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ingestion_pipeline.dagster_defs.sensors import FLOOD_RUNS
from ingestion_pipeline.domain import Lane
from ingestion_pipeline_tests.performance import loading, worker
from ingestion_pipeline_tests.performance.corpus import Sizes, write_corpus
from ingestion_pipeline_tests.performance.limit import Results
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Cpu, Site, Surroundings

LEAST_RATIO = 0.5
MOST_MS_A_DOCUMENT = 10.0
# How documents are taken to their end: as the product does in a flood, and what orchestration and company cost.
RUNS = FLOOD_RUNS[Lane.PROCESS]
FLOOD = f"{RUNS} Dagster runs at once"
WAYS = (("pipeline", False, 1), ("Dagster", True, 1), (FLOOD, True, RUNS))
CLOCK_SECONDS = 0.01  # what the kernel counts others' CPU by


@dataclass(frozen=True, slots=True)
class Round:
    """All documents taken to their end, in seconds; `own_cpu` is that of the working processes."""

    seconds: float
    own_cpu: float
    shared: Cpu
    chunks: int

    @property
    def cpu(self) -> float:
        """CPU of the working processes and of Postgres: the mocks stand for somebody else's machines."""
        return self.own_cpu + self.shared.postgres


def measure(here: Surroundings, sizes: Sizes, rounds: int) -> Iterator[Figure]:
    """Wall clock and CPU of the limit, of the pipeline and of Dagster runs, from both states behind the parser.

    The limit begins where they do: with texts that are there already, or with results that are to be fetched.
    """
    corpus = here.folder / "throughput"
    parsed = loaded(here, corpus, sizes)
    validated = here.site(parsed)
    with here.process() as run_in_it:
        run_in_it(loading.validate_parsed, here.settings(validated), validated.urls.owner)
    begun = {
        "parse_validated": (validated, corpus),
        "parsed": (parsed, loading.results_of(here.settings(parsed), parsed.urls.owner)),
    }
    taken: dict[str, dict[str, list[Round]]] = {state: defaultdict(list) for state in begun}
    for _ in range(rounds):
        for state, (site, source) in begun.items():
            taken[state]["limit"].append(limit_round(here, source))
            for name, dagster, at_once in WAYS:
                taken[state][name].append(pipeline_round(here, site, sizes, dagster=dagster, at_once=at_once))
    for state, ways in taken.items():
        lowest = _median(ways["limit"])
        for name, measured in ways.items():
            yield from _figures(f"{name}, from {state}", _median(measured), lowest, sizes.documents)
        chunks = _median(ways["Dagster"]).chunks / sizes.documents
        yield Figure("throughput", f"chunks of a document, from {state}", chunks, "", lowest.chunks / sizes.documents)
    for site in (parsed, validated):
        here.drop(site)
    if sizes.big:
        yield from small_documents(here, Sizes(sizes.small, 0), rounds)


def small_documents(here: Surroundings, sizes: Sizes, rounds: int) -> Iterator[Figure]:
    """CPU of a document of 8 KB beyond the limit's."""
    corpus = here.folder / "small"
    parsed = loaded(here, corpus, sizes)
    limits = [limit_round(here, corpus) for _ in range(rounds)]
    for name, dagster in (("pipeline", False), ("Dagster", True)):
        taken = [pipeline_round(here, parsed, sizes, dagster=dagster) for _ in range(rounds)]
        beyond = (_median(taken).cpu - _median(limits).cpu) / sizes.documents * 1000
        wished = f"<= {MOST_MS_A_DOCUMENT:g}" if dagster else ""
        met = beyond <= MOST_MS_A_DOCUMENT if dagster else None
        what = f"{name}, from parsed: CPU beyond the limit's"
        yield Figure("documents of 8 KB", what, beyond, "ms/document", target=wished, met=met)
    here.drop(parsed)


def loaded(here: Surroundings, corpus: Path, sizes: Sizes) -> Site:
    """A site whose documents, written to `corpus`, have all been parsed."""
    files = write_corpus(corpus, sizes)
    site = here.site()
    with here.process() as run_in_it:
        run_in_it(loading.load_parsed, here.settings(site), site.urls.owner, files, here.dagster(site))
    return site


def limit_round(here: Surroundings, source: Path | Results) -> Round:
    """The limit on an empty database."""
    site = here.site()
    outcome, shared = here.limit(source, site)
    here.drop(site)
    return Round(outcome.seconds, outcome.cpu_seconds, shared, outcome.chunks)


def pipeline_round(here: Surroundings, source: Site, sizes: Sizes, *, dagster: bool, at_once: int = 1) -> Round:
    """Everything that is due in a copy of a site, to its end, in a batch for each of `at_once` processes.

    What is due is looked for in a process of its own, as in the product. The clock stops at the end of the last batch.
    """
    site = here.site(source)
    settings = here.settings(site, batch_documents=sizes.documents)
    with ExitStack() as stack:
        workers = [stack.enter_context(here.process()) for _ in range(at_once)]
        sensor = stack.enter_context(here.process())
        threads = stack.enter_context(ThreadPoolExecutor(at_once + 1))
        prepared = (settings, here.dagster(site) if dagster else None, Lane.PROCESS, at_once)
        list(threads.map(lambda run_in_it: run_in_it(worker.prepare, *prepared), (sensor, *workers)))
        sensor(worker.look)
        before, own_before = here.cpu(), sum(run_in_it(worker.cpu_seconds) for run_in_it in (sensor, *workers))
        done, seconds, started = 0, 0.0, time.perf_counter()
        while batches := sensor(worker.claim):
            shares = [batches[number::at_once] for number in range(at_once)]
            done += sum(threads.map(lambda run_in_it, share: run_in_it(worker.run, share), workers, shares))
            seconds = time.perf_counter() - started
        own = sum(run_in_it(worker.cpu_seconds) for run_in_it in (sensor, *workers)) - own_before
        shared = here.cpu().since(before)
    assert done == sizes.documents, f"{done} of {sizes.documents} documents were claimed"
    loading.assert_complete(site.urls.owner)
    chunks = loading.count(site.urls.owner, "document_chunks")
    here.drop(site)
    return Round(seconds, own, shared, chunks)


def _figures(what: str, mine: Round, lowest: Round, documents: int) -> Iterator[Figure]:
    ratio = lowest.seconds / mine.seconds
    judged = what.startswith(FLOOD)
    yield Figure(
        "throughput",
        what,
        documents / mine.seconds,
        "documents/s",
        documents / lowest.seconds,
        ratio,
        target=f"ratio >= {LEAST_RATIO}" if judged else "",
        met=ratio >= LEAST_RATIO if judged else None,
    )
    cpu = {
        "own": (mine.own_cpu, lowest.own_cpu),
        "Postgres": (mine.shared.postgres, lowest.shared.postgres),
        "mocks": (mine.shared.mocks, lowest.shared.mocks),
    }
    for name, (used, by_limit) in cpu.items():
        a_document = 1000 / documents
        yield Figure(
            "throughput",
            f"{what}: CPU, {name}",
            used * a_document,
            "ms/document",
            by_limit * a_document,
            by_limit / max(used, CLOCK_SECONDS),
        )


def _median(taken: Sequence[Round]) -> Round:
    """The round whose wall clock is the median (the lower of two)."""
    middle = median([each.seconds for each in taken]) if len(taken) % 2 else sorted(each.seconds for each in taken)[0]
    return next(each for each in taken if each.seconds == middle)
