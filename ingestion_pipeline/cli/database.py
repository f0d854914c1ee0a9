"""`ingest db`: the schema's migrations, on the database of INGEST_DATABASE_URL or the embedded one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from ingestion_pipeline.adapters.postgres.migrations import Migration, Migrator
from ingestion_pipeline.local_stack.stack import embedded_postgres, owner_database_url
from ingestion_pipeline.settings import Settings, load_settings


@click.group()
def database() -> None:
    """Migrate the database schema, roll it back, show it."""


@database.command()
def migrate() -> None:
    """Apply the migrations that are pending.

    Where INGEST_WORKER_DATABASE_URL and INGEST_API_DATABASE_URL are set, the roles ingest_worker and ingest_api get the
    passwords of those URLs.
    """
    settings = load_settings()
    with _migrator(settings) as migrator:
        before = {migration.version for migration in migrator.status() if migration.applied}
        migrations = migrator.migrate()
        _print(migrations)
        click.echo(f"{sum(migration.version not in before for migration in migrations)} applied now")
        if settings.worker_database_url and settings.api_database_url:
            values = settings.require("worker_database_url", "api_database_url")
            migrator.provision_logins(values["worker_database_url"], values["api_database_url"])


@database.command()
@click.confirmation_option("--yes", prompt="Undo the newest migration? What it created is dropped, with its data.")
def rollback() -> None:
    """Undo the newest applied migration, with the data that only it made room for."""
    with _migrator(load_settings()) as migrator:
        _print(migrator.rollback())


@database.command()
def status() -> int:
    """List the migrations. The exit status is 0 only if all are applied, and as they are in the files."""
    with _migrator(load_settings()) as migrator:
        migrations = migrator.status()
    _print(migrations)
    return 0 if all(migration.applied and not migration.edited for migration in migrations) else 1


@contextmanager
def _migrator(settings: Settings) -> Iterator[Migrator]:
    """A migrator; an embedded server that only this command needs is stopped at the end."""
    stop: Callable[[], None] | None = None
    if settings.database_url is None:
        server = embedded_postgres(settings)
        stop = None if server.is_running() else server.stop
    try:
        yield Migrator(owner_database_url(settings))
    finally:
        if stop is not None:
            stop()


def _print(migrations: list[Migration]) -> None:
    for migration in migrations:
        condition = "edited since" if migration.edited else "applied" if migration.applied else "pending"
        click.echo(f"{condition:<12}  {migration.name}")
