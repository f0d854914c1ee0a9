"""`ingest failures`: what failed and why, what to do about it, and what is tried again when."""

from itertools import islice

import click

from ingestion_pipeline.cli.client import connect
from ingestion_pipeline.cli.output import console_for, failures_view
from ingestion_pipeline.domain import State

FAILING = [state.value for state in State if state not in (State.COMPLETE, State.CANCELLED)]


@click.command()
@click.option("--code", help="Only documents whose error has this code.")
@click.option("--state", type=click.Choice(FAILING), help="Only documents in this state.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most documents listed.")
def failures(*, code: str | None, state: str | None, limit: int) -> None:
    """List the documents whose last attempt failed, the latest first: dead letters, and those that wait for a retry.

    They are grouped by the error's code, with the remedy.
    """
    found = connect().each_document(states=[state] if state else (), code=code, has_error=True)
    documents = list(islice(found, limit + 1))
    console = console_for()
    if not documents:
        console.print("Nothing has failed.")
        return
    console.print(failures_view(documents[:limit]))
    if len(documents) > limit:
        console.print(f"There are more: only the latest {limit} are listed (--limit).")
    console.print("Once the cause is gone: `ingest retry ID...`, or `ingest retry --all --code CODE`.")
