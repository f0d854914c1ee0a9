"""`python -m ingestion_pipeline_tests.performance.scale`: what a store costs as it grows to 100,000 documents.

Pollers, sensors and listings are to cost nearly the same however large the store is; exact search costs more with every
vector, a vector index makes storing slower; Dagster's page of partitions slows down with their number.
"""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence

import click

from ingestion_pipeline_tests.crowded_store import fill
from ingestion_pipeline_tests.performance import report
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.scale_partitions import measure_partitions
from ingestion_pipeline_tests.performance.scale_search import measure_search
from ingestion_pipeline_tests.performance.scale_store import measure_stores
from ingestion_pipeline_tests.performance.surroundings import Surroundings, surroundings

SIZES = (1_000, 10_000, 100_000)
VECTORS = (10_000, 50_000, 100_000)
ROUNDS = 7
MOST_TIMES_SLOWER = 1.5
GROWS = ("register every partition", "count by state")  # they are about every document: no target


def measure(here: Surroundings, sizes: Sequence[int], rounds: int) -> Iterator[Figure]:
    """The same work in stores of these sizes, ascending; each is held against the smallest."""
    sites = {size: here.site() for size in sizes}
    for size, site in sites.items():
        fill(site.urls.owner, size)
    found = measure_stores(here, sites, rounds)
    for name, least in found[sizes[0]].items():
        for size in sizes:
            value = found[size][name]
            is_judged = size == sizes[-1] and name not in GROWS
            yield Figure(
                name,
                f"{size:,} documents",
                value,
                "ms",
                against=least,
                ratio=least / value,
                target=f">= {1 / MOST_TIMES_SLOWER:.2g}" if is_judged else "",
                met=value <= MOST_TIMES_SLOWER * least if is_judged else None,
            )
    for site in sites.values():
        here.drop(site)


def make_argument_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser("python -m ingestion_pipeline_tests.performance.scale", description=__doc__)
    parts = ("store", "search", "partitions")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="leave the others out")
    parser.add_argument("--documents", nargs="+", type=int, default=SIZES, help="sizes of the stores, ascending")
    parser.add_argument("--vectors", nargs="+", type=int, default=VECTORS, help="how many a search compares, ascending")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which the median counts")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, part by part."""
    options = make_argument_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # by an exception, so that all processes are ended
    click.echo("; ".join(report.machine().values()))
    with surroundings() as here:
        for part in options.only:
            click.echo(f"{part} ...", err=True)
            if part == "store":
                figures = measure(here, options.documents, options.rounds)
            elif part == "search":
                figures = measure_search(here, options.vectors, options.rounds)
            else:
                figures = measure_partitions(here, options.documents)
            click.echo(report.table(list(figures)))


if __name__ == "__main__":
    main()
