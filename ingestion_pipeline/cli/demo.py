"""`ingest demo`: proof that a running stack works. Samples in, three questions answered from the right documents."""

import json
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from ingestion_pipeline.cli.client import ApiClient, connect
from ingestion_pipeline.cli.output import console_for, files_table, hit_view
from ingestion_pipeline.cli.transfer import FileRow, Transfer
from ingestion_pipeline.cli.upload import upload_files

QUESTIONS_ASKED = 3
CONCURRENCY = 6
TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the sample file that answers it, and the words of the answer as they stand there."""

    question: str
    file: str
    sentence: str


@click.command()
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(0, min_open=True),
    default=TIMEOUT_SECONDS,
    show_default=True,
    help="Give up after these seconds.",
)
def demo(*, timeout_seconds: float) -> int:
    """Upload the sample documents to the running stack, watch them arrive, search them.

    The exit status is 0 only if all became complete and each question found the document that answers it.
    """
    is_good = run_demo(connect(), console_for(), timeout_seconds=timeout_seconds)
    return 0 if is_good else 1


def run_demo(client: ApiClient, console: Console, *, timeout_seconds: float = TIMEOUT_SECONDS) -> bool:
    """Upload, watch, search; returns whether everything went as it should."""
    client.counts()  # an API that is away or refuses the key is one error, not one for each file
    with as_file(files("ingestion_pipeline") / "samples") as folder:
        rows = _upload(client, console, folder, timeout_seconds)
        questions = read_questions(folder)[:QUESTIONS_ASKED]
    incomplete = [row.path.name for row in rows if not row.is_complete]
    if incomplete:
        console.print(f"\nNOT complete: {', '.join(incomplete)}. The demo FAILED.", style="red")
        return False
    ids = {row.path.name: str(row.document_id) for row in rows}
    right = sum(_ask(client, console, question, ids[question.file]) for question in questions)
    is_good = right == len(questions)
    console.print(
        f"\n{len(rows)} of {len(rows)} documents complete, {right} of {len(questions)} questions found their document"
        f" first: the demo {'succeeded' if is_good else 'FAILED'}.",
        style="green" if is_good else "red",
    )
    return is_good


def sample_files(folder: Path) -> list[Path]:
    """The sample documents: all files of the folder but the questions."""
    return sorted(file for file in folder.iterdir() if file.suffix != ".json")


def read_questions(folder: Path) -> list[Question]:
    """The questions about the samples, the demo's first."""
    return [Question(**entry) for entry in json.loads((folder / "questions.json").read_text())]


def _upload(client: ApiClient, console: Console, folder: Path, timeout_seconds: float) -> list[FileRow]:
    """On a terminal a table that changes in place, elsewhere a line when a file is sent or settled and a table."""
    documents = sample_files(folder)
    console.print(f"Uploading {len(documents)} sample documents to {client.url}")
    if not console.is_terminal:
        rows = upload_files(
            client,
            documents,
            concurrency=CONCURRENCY,
            until_settled=True,
            timeout_seconds=timeout_seconds,
            below=folder,
        )
        console.print(files_table(rows, folder))
        return rows
    with Live(console=console, auto_refresh=False) as live:
        transfer = Transfer(
            client,
            documents,
            concurrency=CONCURRENCY,
            until_settled=True,
            timeout_seconds=timeout_seconds,
            on_bytes=lambda _index, _sent: None,
            on_change=lambda _row: live.update(files_table(transfer.rows, folder), refresh=True),
        )
        transfer.run()
    return transfer.rows


def _ask(client: ApiClient, console: Console, question: Question, document_id: str) -> bool:
    console.print(f"\n? {question.question}")
    hits = client.search(question.question, limit=1)
    if not hits:
        console.print("   Nothing found.", style="red")
        return False
    console.print(hit_view(1, hits[0], question.question))
    is_right = bool(hits[0]["document_id"] == document_id)
    if not is_right:
        console.print(f"   WRONG: {question.file} has the answer: {question.sentence!r}", style="red")
    return is_right
