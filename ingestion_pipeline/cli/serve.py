"""`ingest serve`: one service in the foreground, for a supervisor or a container."""

import signal
import threading
from pathlib import Path

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
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), required=True)
def code(host: str, port: int) -> None:
    """Dagster's code server, with runs that start warm."""
    from ingestion_pipeline.dagster_defs.warm_code_server import serve_code

    serve_code(host, port)


@serve.command()
@click.option("-w", "--workspace", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
def daemon(workspace: Path) -> None:
    """Dagster's daemon: sensors, the queue of runs, backfills, monitoring."""
    from ingestion_pipeline.dagster_defs.prompt_daemon import run_daemon

    run_daemon(workspace)


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
