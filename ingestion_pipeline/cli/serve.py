"""`ingest serve`: one service in the foreground, for a supervisor or a container."""

import signal
import threading

import click

from ingestion_pipeline.settings import load_settings

WATCH_SECONDS = 0.5


@click.group()
def serve() -> None:
    """Run one service of the pipeline in the foreground."""


@serve.command()
def api() -> None:
    """The HTTP API, on INGEST_API_HOST and INGEST_API_PORT."""
    from ingestion_pipeline.api.main import serve_api

    serve_api(load_settings())


@serve.command()
def postgres() -> None:
    """The embedded PostgreSQL of the data folder: taken over or started, restarted if it dies, stopped at the end."""
    from ingestion_pipeline.local_stack.stack import embedded_postgres

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = embedded_postgres(load_settings())
    try:
        click.echo(f"PostgreSQL on port {server.start().port}")
        while not stop.wait(WATCH_SECONDS):
            if not server.is_running():
                click.echo("PostgreSQL is gone; starting it again")
                server.start()
    finally:
        server.stop()
