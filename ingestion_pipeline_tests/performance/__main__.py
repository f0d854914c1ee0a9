"""`python -m ingestion_pipeline_tests.performance`: run the measurements, print their tables, write the results."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click

from ingestion_pipeline_tests.performance import changed, latency, memory, parallel, report, throughput, unchanged
from ingestion_pipeline_tests.performance.corpus import Sizes
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Surroundings, surroundings


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured: documents of 8 KB and of 1 MB, rounds of which the median counts, and so on."""

    documents: Sizes
    rounds: int
    one_by_one: int
    idle_seconds: float
    megabytes: tuple[int, ...]
    small_documents: tuple[int, ...]


SHORT = Extent(Sizes(200, 4), 1, one_by_one=10, idle_seconds=30, megabytes=(1, 10), small_documents=(100, 400))
LONG = Extent(Sizes(1000, 20), 5, one_by_one=20, idle_seconds=60, megabytes=(1, 10, 100), small_documents=(100, 1000))
MEASUREMENTS: dict[str, Callable[[Surroundings, Extent], Iterator[Figure]]] = {
    "throughput": lambda here, extent: throughput.measure(here, extent.documents, extent.rounds),
    "workers": lambda here, extent: parallel.measure(here, extent.documents),
    "unchanged": lambda here, extent: unchanged.measure(here, extent.documents),
    "changed": lambda here, extent: changed.measure(here, extent.documents),
    "latency": lambda here, extent: latency.measure(here, extent.one_by_one, extent.idle_seconds),
    "memory": lambda here, extent: memory.measure(here, extent.megabytes, extent.small_documents),
}


def make_argument_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser("python -m ingestion_pipeline_tests.performance", description=__doc__)
    add = parser.add_argument
    add("--long", action="store_true", help="the sizes of a release")
    add("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS), help="leave the others out")
    add("--documents", nargs=2, type=int, metavar=("SMALL", "BIG"), help="how many of 8 KB and of 1 MB")
    add("--rounds", type=int, help="of which the median counts")
    add("--out", type=Path, default=Path("data/performance"), help="where results.md, .json and .svg go")
    return parser


def main() -> None:
    """Measure what was asked for."""
    options = make_argument_parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # by an exception, so that all processes are ended
    extent = LONG if options.long else SHORT
    if options.documents:
        extent = replace(extent, documents=Sizes(*options.documents))
    if options.rounds:
        extent = replace(extent, rounds=options.rounds)
    figures: list[Figure] = []
    facts = report.machine()
    with surroundings() as here:
        for name in options.only:
            click.echo(f"{name} ...", err=True)
            found = list(MEASUREMENTS[name](here, extent))
            click.echo(report.table(found))
            figures += found
            report.write(options.out, figures, "long" if options.long else "short", facts)


if __name__ == "__main__":
    main()
