"""`ingest retry` and `ingest cancel`: what people do about documents."""

from collections.abc import Callable, Iterable
from functools import partial
from uuid import UUID

import click
from rich.console import Console

from ingestion_pipeline.cli.client import ApiClient, ApiRefusedError, Record, connect, with_retries
from ingestion_pipeline.cli.output import console_for, shown, state_text
from ingestion_pipeline.domain import DEAD_LETTERS, State
from ingestion_pipeline.errors import NotFoundError, NotRetryableError

RETRYABLE = [state.value for state in State if state is not State.COMPLETE]


@click.command()
@click.argument("document_ids", nargs=-1, type=click.UUID, metavar="[ID]...")
@click.option("--all", "is_all", is_flag=True, help="Every dead letter, instead of the documents named.")
@click.option("--code", help="With --all: only those whose error has this code.")
@click.option("--state", type=click.Choice(RETRYABLE), help="With --all: those in this state, instead of dead letters.")
@click.option("--start-over", is_flag=True, help="From the very beginning, not from what is kept; complete ones too.")
def retry(
    *, document_ids: tuple[UUID, ...], is_all: bool, code: str | None, state: str | None, start_over: bool
) -> int:
    """Take documents up again that failed or were cancelled; those that wait for their next attempt are due at once.

    They go on from the last state whose work is kept. `ingest failures` lists what there is to retry. The exit status
    is 0 only if every document named was taken up.
    """
    if is_all == bool(document_ids):
        raise click.UsageError("Name documents, or give --all.")
    if (code or state) and not is_all:
        raise click.UsageError("--code and --state go with --all.")
    client = connect()

    def retried(document_id: str) -> Record:
        return client.retry(document_id, start_over=start_over)

    if not is_all:
        return _each(console_for(), map(str, document_ids), retried, "retried")
    return _each(console_for(), _failed(client, code, state), retried, "retried", gone=NotRetryableError.code)


@click.command()
@click.argument("document_ids", nargs=-1, required=True, type=click.UUID, metavar="ID...")
def cancel(*, document_ids: tuple[UUID, ...]) -> int:
    """Stop the work on documents. What they had come to is kept for an `ingest retry`.

    The exit status is 0 only if every document was cancelled.
    """
    return _each(console_for(), map(str, document_ids), connect().cancel, "cancelled")


def _failed(client: ApiClient, code: str | None, state: str | None) -> Iterable[str]:
    states = [state] if state else sorted(DEAD_LETTERS)
    for document in client.each_document(states=states, code=code):
        if document["retry_path"]:
            yield document["document_id"]


def _each(
    console: Console,
    document_ids: Iterable[str],
    action: Callable[[str], Record],
    done: str,
    *,
    gone: str | None = None,
) -> int:
    """A line for each document and one at the end; returns the exit status. A refusal with the code `gone` is none."""
    count, refused = 0, 0
    for document_id in document_ids:
        try:
            document = with_retries(partial(action, document_id))
        except (ApiRefusedError, NotFoundError) as error:
            if error.code != gone:
                refused += 1
                console.print(shown(f"{document_id}: refused [{error.code}]: {error.message}"), soft_wrap=True)
        else:
            count += 1
            line = shown(f"{document_id}: ").append_text(state_text(document["state"]))
            console.print(line.append_text(shown(f" ({document['filename']})")), soft_wrap=True)
    console.print(f"{count} {done}" + (f", {refused} refused" if refused else ""))
    return 1 if refused else 0
