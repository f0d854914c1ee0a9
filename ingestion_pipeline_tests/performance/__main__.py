"""`python -m ingestion_pipeline_tests.performance`: run the measurements, print the table, write the results."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from ingestion_pipeline_tests.performance import report, throughput
from ingestion_pipeline_tests.performance.corpus import Sizes
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Surroundings, surroundings

SHORT, LONG = Sizes(200, 4), Sizes(1000, 20)
MEASUREMENTS: dict[str, Callable[[Surroundings, argparse.Namespace], Iterator[Figure]]] = {
    "throughput": lambda here, options: throughput.measure(here, options.documents, options.rounds),
}


def make_argument_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser("python -m ingestion_pipeline_tests.performance", description=__doc__)
    add = parser.add_argument
    add("--long", action="store_true", help="the sizes of a release: minutes become an hour")
    add(
        "--only",
        nargs="+",
        choices=MEASUREMENTS,
        default=list(MEASUREMENTS),
        metavar="NAME",
        help=", ".join(MEASUREMENTS),
    )
    add("--documents", nargs=2, type=int, metavar=("SMALL", "BIG"), help="how many of 8 KB and of 1 MB")
    add("--rounds", type=int, help="of which the median counts; 1, or 3 with --long")
    add("--out", type=Path, default=Path("data/performance"), help="where results.md, .json and .svg go")
    return parser


def main() -> None:
    """Measure what was asked for."""
    options = make_argument_parser().parse_args()
    options.documents = Sizes(*options.documents) if options.documents else LONG if options.long else SHORT
    options.rounds = options.rounds or (3 if options.long else 1)
    figures: list[Figure] = []
    with surroundings() as here:
        for name in options.only:
            click.echo(f"{name} ...", err=True)
            figures += MEASUREMENTS[name](here, options)
    report.write(options.out, figures, "long" if options.long else "short")
    click.echo(report.table(figures))


if __name__ == "__main__":
    main()
