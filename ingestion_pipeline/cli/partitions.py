"""`ingest partitions`: which documents lost their partition in Dagster, and how they get it back."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import UUID

import click

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.partitions import PostgresPartitions
from ingestion_pipeline.cli.owner_database import owner_url
from ingestion_pipeline.domain import DEAD_LETTERS, State
from ingestion_pipeline.settings import load_settings

RETIRING_STATES = [state.value for state in State if state in DEAD_LETTERS or state is State.COMPLETE]


@click.group()
def partitions() -> None:
    """Show or bring back the partitions that Dagster gave up.

    Dagster shows a settled document for INGEST_PARTITION_RETENTION_DAYS. Status, history and search go on without.
    """


@partitions.command()
def status() -> None:
    """Show how many documents of each state have no partition any more."""
    with _partitions() as known:
        counts = known.counts()
    click.echo(f"{'State':<24}{'Documents':>12}{'Retired':>12}{'Awaited':>12}")
    for count in counts:
        click.echo(f"{count.state:<24}{count.documents:>12,}{count.retired:>12,}{count.awaited:>12,}")


@partitions.command()
@click.argument("document_ids", nargs=-1, type=click.UUID, metavar="ID...")
@click.option("--state", type=click.Choice(RETIRING_STATES), help="Those of all documents in this state.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="At most, the last settled first."
)
def restore(*, document_ids: tuple[UUID, ...], state: str | None, limit: int) -> None:
    """Bring partitions back: those of documents, or of all documents in a state. They stay as long as new ones.

    Each half minute Dagster gets a batch of them, told anew of everything that is durable. A document that is retried
    gets its partition back by itself.
    """
    if bool(document_ids) == bool(state):
        raise click.UsageError("Give the ids of documents, or --state.")
    with _partitions() as known:
        asked = known.ask_back(
            document_ids=document_ids or None,
            state=State(state) if state else None,
            limit=max(limit, len(document_ids)),
        )
    click.echo(f"{len(asked):,} asked back")
    if document_ids and len(asked) < len(document_ids):
        click.echo("The others have their partition, wait for it already, or do not exist: see `ingest status ID`.")


@contextmanager
def _partitions() -> Iterator[PostgresPartitions]:
    with owner_url(load_settings()) as url, closing(Database(url, application_name="ingest-partitions")) as database:
        database.check()
        yield PostgresPartitions(database)
