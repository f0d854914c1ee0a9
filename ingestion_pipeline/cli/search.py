"""`ingest search`: the passages whose meaning is nearest to a question."""

import json

import click

from ingestion_pipeline.cli.client import connect
from ingestion_pipeline.cli.output import console_for, hit_view


@click.command()
@click.argument("query")
@click.option("--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="Most results.")
@click.option("--json", "is_json", is_flag=True, help="Print the API's results as a JSON array.")
def search(*, query: str, limit: int, is_json: bool) -> None:
    """Search the complete documents for QUERY, a question or some words."""
    hits = connect().search(query, limit=limit)
    if is_json:
        click.echo(json.dumps(hits, indent=2))
        return
    console = console_for()
    if not hits:
        console.print("Nothing found: no document is complete yet. `ingest status` shows where they are.")
    for rank, hit in enumerate(hits, start=1):
        console.print(hit_view(rank, hit, query))
