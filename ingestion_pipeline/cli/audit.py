"""`ingest audit`: whether everything that is stored agrees with everything else; with --fix it is mended."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ingestion_pipeline.audit.findings import Code
from ingestion_pipeline.audit.pace import Pace
from ingestion_pipeline.audit.run import run_audit
from ingestion_pipeline.audit.services import Audit, Options
from ingestion_pipeline.audit.tally import Tally
from ingestion_pipeline.cli.output import console_for, findings_table, shown
from ingestion_pipeline.cli.worker_settings import worker_settings
from ingestion_pipeline.composition import document_store, inventory, object_store
from ingestion_pipeline.inventory import PartitionBook
from ingestion_pipeline.local_stack.stack import dagster_environment
from ingestion_pipeline.settings import Settings, load_settings

LINE_SECONDS = 5.0
OF_DAGSTER = {Code.PARTITION_ORPHANED, Code.PARTITION_MISSING, Code.PARTITION_UNTOLD}


@click.command()
@click.option("--fix", "is_fixing", is_flag=True, help="Mend what can be mended without loss.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--only", multiple=True, type=click.Choice([code.value for code in Code]), help="Look for this only.")
@click.option(
    "--orphan-hours",
    type=click.FloatRange(1),
    default=24,
    show_default=True,
    help="Age from which an object without a document is an orphan.",
)
@click.option(
    "--megabytes-per-second",
    type=click.FloatRange(0, min_open=True),
    default=50,
    show_default=True,
    help="How fast files and texts are read.",
)
def audit(
    *, is_fixing: bool, is_json: bool, only: tuple[str, ...], orphan_hours: float, megabytes_per_second: float
) -> int:
    """Check rows, objects and Dagster's partitions against one another, and say what --fix would do.

    May run beside the pipeline, and be stopped and run again at any time. The exit status is 0 only if nothing is left
    to be mended. It needs the settings of a worker; without them it takes the stores of `ingest up` on this machine.
    """
    options = Options(
        is_fixing=is_fixing,
        codes=frozenset(map(Code, only)) or frozenset(Code),
        orphan_seconds=orphan_hours * 3600,
    )
    with (
        worker_settings(load_settings()) as settings,
        _partitions(settings, options) as partitions,
        _display(console_for(sys.stderr)) as tally,
    ):
        run_audit(
            Audit(
                inventory=inventory(settings),
                documents=document_store(settings, actor="audit"),
                objects=object_store(settings),
                partitions=partitions,
                model=settings.embedding_model,
                options=options,
                tally=tally,
                pace=Pace(megabytes_per_second * 1e6),
            )
        )
    if is_json:
        click.echo(json.dumps(tally.as_json(), indent=2))
    else:
        console_for().print(_report(tally))
    return 1 if tally.left() else 0


@contextmanager
def _partitions(settings: Settings, options: Options) -> Iterator[PartitionBook | None]:
    """Dagster's storage as dagster.yaml says; its packages take seconds to import, so only if it is asked for."""
    if options.codes.isdisjoint(OF_DAGSTER):
        yield None
        return
    url = settings.require("worker_database_url")["worker_database_url"]
    for name, value in dagster_environment(url, settings.data_dir.resolve(), 0).items():
        os.environ.setdefault(name, value)
    import dagster

    from ingestion_pipeline.dagster_defs.partition_book import DagsterPartitionBook

    with dagster.DagsterInstance.get() as instance:
        yield DagsterPartitionBook(instance)


class _Lines:
    """Progress for a log: a line every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_at = time.monotonic() + LINE_SECONDS

    def show(self, what: str, done: int, total: int | None) -> None:
        """Say how far it is, if that was not said just now."""
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + LINE_SECONDS
            self._console.print(f"{what}: {done:,}" + (f" of {total:,}" if total else ""))


class _Bars:
    """Progress for a terminal: a bar each for documents, objects and partitions."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, what: str, done: int, total: int | None) -> None:
        """Move a bar."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done)


@contextmanager
def _display(console: Console) -> Iterator[Tally]:
    if not console.is_terminal:
        yield Tally(_Lines(console).show)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Tally(_Bars(progress).show)


def _report(tally: Tally) -> RenderableType:
    """A row for each kind of finding, then a few of each, then the sum."""
    examined = ", ".join(f"{what} {count:,}" for what, count in tally.examined.items()) or "the work alone"
    lines: list[RenderableType] = []
    if tally.found:
        lines += [findings_table(tally), ""]
        for code in Code:
            lines += [shown(f"{code}: {each.subject}: {each.detail}") for each in tally.examples.get(code, [])]
        lines.append("")
    if tally.at_work:
        lines.append(f"{tally.at_work:,} documents were being worked on and were left alone; audit again for those.")
    sums = f"Findings {tally.found.total():,}, mended {tally.mended.total():,}, left {tally.left():,}."
    lines.append(f"Looked at: {examined}. {sums if tally.found else 'Everything agrees.'}")
    return Group(*lines)
