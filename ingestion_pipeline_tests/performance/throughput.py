"""The whole line after parsing, with and without Dagster, against the limit on the same texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ingestion_pipeline_tests.performance import loading, worker
from ingestion_pipeline_tests.performance.corpus import Sizes, write_corpus
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Cpu, Site, Surroundings

LEAST_RATIO = 0.5
MOST_MS_A_DOCUMENT = 10.0
CLOCK_SECONDS = 0.01  # what the kernel counts others' CPU by


@dataclass(frozen=True, slots=True)
class Round:
    """One run over all documents, in seconds; `own_cpu` is that of the working process."""

    seconds: float
    own_cpu: float
    shared: Cpu
    chunks: int

    @property
    def cpu(self) -> float:
        """CPU of the working process and of Postgres: the mocks stand for somebody else's machines."""
        return self.own_cpu + self.shared.postgres


def measure(here: Surroundings, sizes: Sizes, rounds: int) -> Iterator[Figure]:
    """Wall clock and CPU of the limit, of the pipeline and of Dagster runs, from both states behind the parser."""
    corpus = here.folder / "throughput"
    parsed = loaded(here, corpus, sizes)
    validated = here.site(parsed)
    with here.process() as run_in_it:
        run_in_it(loading.validate_parsed, here.settings(validated), validated.urls.owner)
    limits: list[Round] = []
    others: dict[str, list[Round]] = {}
    for _ in range(rounds):
        limits.append(limit_round(here, corpus))
        for state, source in (("parsed", parsed), ("parse_validated", validated)):
            for name, dagster in (("pipeline", False), ("Dagster", True)):
                others.setdefault(f"{name}, from {state}", []).append(pipeline_round(here, source, dagster=dagster))
    lowest = _median(limits)
    for what, taken in {"limit": limits, **others}.items():
        yield from _figures(what, _median(taken), lowest, sizes.documents)
    chunks = _median(others["Dagster, from parsed"]).chunks
    yield Figure("throughput", "chunks of a document", chunks / sizes.documents, "", lowest.chunks / sizes.documents)
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
        taken = [pipeline_round(here, parsed, dagster=dagster) for _ in range(rounds)]
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
        run_in_it(loading.load_parsed, here.settings(site), site.urls.owner, files)
    return site


def limit_round(here: Surroundings, corpus: Path) -> Round:
    """The limit on an empty database."""
    site = here.site()
    outcome, shared = here.limit(corpus, site)
    here.drop(site)
    return Round(outcome.seconds, outcome.cpu_seconds, shared, outcome.chunks)


def pipeline_round(here: Surroundings, source: Site, *, dagster: bool) -> Round:
    """Everything that is due in a copy of a site, by one process, to its end."""
    site = here.site(source)
    with here.process() as run_in_it:
        run_in_it(worker.prepare, here.settings(site), here.dagster(site) if dagster else None)
        before = here.cpu()
        done = run_in_it(worker.work)
        shared = here.cpu().since(before)
    loading.assert_complete(site.urls.owner)
    chunks = loading.count(site.urls.owner, "document_chunks")
    here.drop(site)
    return Round(done.seconds, done.cpu_seconds, shared, chunks)


def _figures(what: str, mine: Round, lowest: Round, documents: int) -> Iterator[Figure]:
    ratio = lowest.seconds / mine.seconds
    judged = "Dagster" in what
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
