"""`ingest usage`: what was bought of the vendors, by day."""

import json
from datetime import datetime

import click

from ingestion_pipeline.cli.client import connect
from ingestion_pipeline.cli.output import console_for, usage_table

DAY = click.DateTime(formats=["%Y-%m-%d"])


@click.command()
@click.option("--from", "first", type=DAY, help="The first day (UTC); by default 29 before the last.")
@click.option("--to", "last", type=DAY, help="The last day (UTC); by default today.")
@click.option("--json", "is_json", is_flag=True, help="Print the API's answer.")
def usage(*, first: datetime | None, last: datetime | None, is_json: bool) -> None:
    """Show tokens, pages and USD by day, by the vendors' price lists."""
    report = connect().usage(
        first=first.date().isoformat() if first else None, last=last.date().isoformat() if last else None
    )
    if is_json:
        click.echo(json.dumps(report, indent=2))
        return
    console_for().print(usage_table(report))
