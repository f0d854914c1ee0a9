"""`ingest status`: where documents are, once or live, or the history of one."""

import time
from collections.abc import Callable
from uuid import UUID

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live

from ingestion_pipeline.cli.client import ApiClient, Record, connect, with_retries
from ingestion_pipeline.cli.output import (
    console_for,
    counts_table,
    document_view,
    documents_table,
    is_settled,
    vendor_warnings,
)
from ingestion_pipeline.domain import State

WATCH_SECONDS = 1.0


@click.command()
@click.argument("document_id", required=False, type=click.UUID)
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C; for one document until it is settled.")
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only documents in this state.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="Most documents listed.")
def status(*, document_id: UUID | None, watch: bool, state: str | None, limit: int) -> None:
    """Show how many documents are in which state and list the latest; or show one, with its history."""
    if document_id and state:
        raise click.UsageError("--state goes with the list of documents, not with one document.")
    client = connect()
    view = _OneDocument(client, document_id) if document_id else _AllDocuments(client, state, limit)
    console = console_for()
    if not watch:
        console.print(view.read())
    elif console.is_terminal:
        _watch_live(console, view.read, lambda: view.is_over)
    else:
        _watch_log(console, view)


class _OneDocument:
    """A document: over when it is settled."""

    def __init__(self, client: ApiClient, document_id: UUID) -> None:
        self._client = client
        self._document_id = str(document_id)
        self._document: Record | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to watch."""
        return self._document is not None and is_settled(self._document)

    def read(self) -> RenderableType:
        """What the API says now."""
        self._document = self._client.document(self._document_id)
        return document_view(self._document)

    def read_line(self) -> str:
        """The same in a line."""
        self._document = self._client.document(self._document_id)
        return f"{self._document['document_id']}: {self._document['state']}"


class _AllDocuments:
    """Counts and the latest documents: never over."""

    is_over = False

    def __init__(self, client: ApiClient, state: str | None, limit: int) -> None:
        self._client = client
        self._state = state
        self._limit = limit

    def read(self) -> RenderableType:
        """What the API says now."""
        documents = self._client.documents(state=self._state, limit=self._limit)
        parts: list[RenderableType] = [*vendor_warnings(self._client.vendors()), counts_table(self._client.counts())]
        return Group(*parts, "", documents_table(documents)) if documents else Group(*parts)

    def read_line(self) -> str:
        """The counts in a line."""
        counts = self._client.counts()
        return ", ".join(f"{state}: {counts[state]}" for state in State if counts.get(state)) or "no documents"


def _watch_live(console: Console, read: Callable[[], RenderableType], is_over: Callable[[], bool]) -> None:
    with Live(read(), console=console, auto_refresh=False) as live:
        while not is_over():
            time.sleep(WATCH_SECONDS)
            live.update(with_retries(read), refresh=True)


def _watch_log(console: Console, view: _OneDocument | _AllDocuments) -> None:
    """A line when something has changed, and at the end all that there is to say."""
    last = ""
    while True:
        line = with_retries(view.read_line) if last else view.read_line()
        if line != last:
            console.print(line)
            last = line
        if view.is_over:
            console.print(view.read())
            return
        time.sleep(WATCH_SECONDS)
