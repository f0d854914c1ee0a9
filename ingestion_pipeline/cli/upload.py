"""`ingest upload`: files and folders into the pipeline, followed until each is settled."""

import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ingestion_pipeline.cli.client import ApiClient, connect
from ingestion_pipeline.cli.output import console_for, file_name, files_table, state_text
from ingestion_pipeline.cli.transfer import FileRow, Transfer, size_of
from ingestion_pipeline.errors import ConfigurationError


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--wait/--no-wait", "is_waiting", default=True, help="Follow each document until it is settled (default)."
)
@click.option("--concurrency", type=click.IntRange(1, 32), default=4, show_default=True, help="Uploads at once.")
@click.option(
    "--timeout", "timeout_seconds", type=click.FloatRange(0, min_open=True), help="Give up after these seconds."
)
@click.option("--json", "is_json", is_flag=True, help="Print a JSON array of the files instead of a table.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the table to this CSV file too.")
def upload(
    *,
    paths: tuple[Path, ...],
    is_waiting: bool,
    concurrency: int,
    timeout_seconds: float | None,
    is_json: bool,
    report: Path | None,
) -> int:
    """Upload files, and folders with all that is in them except hidden files.

    The exit status is 0 only if every file was accepted and, unless --no-wait says otherwise, is complete.
    """
    files = collect_files(paths)
    if not files:
        raise ConfigurationError("There are no files in what was given; hidden files in folders are left out.")
    if report:
        write_report([], report)  # if it can't be written, now is the time to say so
    client = connect()
    client.counts()  # an API that is away or refuses the key is one error, not one for each file
    rows = upload_files(
        client, files, concurrency=concurrency, until_settled=is_waiting, timeout_seconds=timeout_seconds
    )
    if report:
        write_report(rows, report)
    if is_json:
        click.echo(json.dumps([row.as_json() for row in rows], indent=2))
    else:
        console_for().print(files_table(rows))
    return 0 if all(row.is_complete if is_waiting else row.is_accepted for row in rows) else 1


def write_report(rows: Sequence[FileRow], path: Path) -> None:
    """One line a file, for a spreadsheet. Raises ConfigurationError if the file can't be written."""
    import pandas

    try:
        pandas.DataFrame([row.as_json() for row in rows]).to_csv(path, index=False)
    except OSError as error:
        raise ConfigurationError(f"The report {path} can't be written: {error.strerror or error}") from None


def collect_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those of the folders named: sorted within a folder, hidden ones left out, each once.

    Raises ConfigurationError for a name of what is neither.
    """
    for path in paths:
        if not path.is_file() and not path.is_dir():
            raise ConfigurationError(f"{path} is neither a file nor a folder.")
    found = dict.fromkeys(file for path in paths for file in (_files_below(path) if path.is_dir() else [path]))
    return list(found)


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise ConfigurationError(f"The folder {error.filename} can't be read: {error.strerror}.")

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            file = Path(parent, name)
            if not name.startswith(".") and file.is_file():
                yield file


def upload_files(
    client: ApiClient,
    files: Sequence[Path],
    *,
    concurrency: int,
    until_settled: bool,
    timeout_seconds: float | None,
    below: Path | None = None,
) -> list[FileRow]:
    """Upload with progress on standard error: a bar on a terminal, elsewhere a line when a file is sent or settled."""
    console = console_for(sys.stderr)
    with _display(console, files, below) as display:
        transfer = Transfer(
            client,
            files,
            concurrency=concurrency,
            until_settled=until_settled,
            timeout_seconds=timeout_seconds,
            on_bytes=display.count_bytes,
            on_change=display.show,
        )
        transfer.run()
    return transfer.rows


class _Lines:
    """Progress for a log."""

    def __init__(self, console: Console, below: Path | None) -> None:
        self._console = console
        self._below = below
        self._sent: set[Path] = set()

    def count_bytes(self, index: int, sent: int) -> None:
        """Bytes are too many lines."""

    def show(self, row: FileRow) -> None:
        """A line for what is new about a file."""
        if row.path in self._sent and not row.is_settled and not row.reason:
            return
        self._sent.add(row.path)
        line = file_name(row, self._below).append(": ").append_text(state_text(row.state))
        self._console.print(line.append(f" after {row.seconds} s"), soft_wrap=True)


class _Bar:
    """Progress for a terminal: the bytes sent, and beside them how many documents are settled."""

    def __init__(self, progress: Progress, files: Sequence[Path]) -> None:
        self._progress = progress
        self._count = len(files)
        self._sent: dict[int, int] = {}
        self._settled: set[Path] = set()
        self._lock = threading.Lock()
        self._task = progress.add_task("", total=sum(size_of(file) for file in files), note=self._note())

    def count_bytes(self, index: int, sent: int) -> None:
        """From any thread. An upload that begins anew takes its bytes back."""
        with self._lock:
            self._progress.advance(self._task, sent - self._sent.get(index, 0))
            self._sent[index] = sent

    def show(self, row: FileRow) -> None:
        """Count a settled file."""
        if row.is_settled:
            self._settled.add(row.path)
            self._progress.update(self._task, note=self._note())

    def _note(self) -> str:
        return f"{len(self._settled)} of {self._count} settled"


@contextmanager
def _display(console: Console, files: Sequence[Path], below: Path | None) -> Iterator[_Lines | _Bar]:
    if not console.is_terminal:
        yield _Lines(console, below)
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress, files)
