"""`ingest db`: the schema's migrations, on the database of INGEST_DATABASE_URL or the embedded one."""

import click

from ingestion_pipeline.adapters.postgres.migrations import Migration, Migrator
from ingestion_pipeline.cli.owner_database import owner_url
from ingestion_pipeline.settings import load_settings


@click.group()
def database() -> None:
    """Migrate the database schema, roll it back, show it."""


@database.command()
def migrate() -> None:
    """Apply the migrations that are pending.

    While there are no vectors, they are from now on kept as INGEST_VECTOR_PRECISION says.

    Where INGEST_WORKER_DATABASE_URL and INGEST_API_DATABASE_URL are set, the roles ingest_worker and ingest_api get the
    passwords of those URLs.
    """
    settings = load_settings()
    with owner_url(settings) as url:
        migrator = Migrator(url)
        before = {migration.version for migration in migrator.status() if migration.applied}
        migrations = migrator.migrate()
        _print(migrations)
        click.echo(f"{sum(migration.version not in before for migration in migrations)} applied now")
        migrator.set_precision(settings.vector_precision)
        if settings.worker_database_url and settings.api_database_url:
            values = settings.require("worker_database_url", "api_database_url")
            migrator.provision_logins(values["worker_database_url"], values["api_database_url"])


@database.command()
@click.confirmation_option("--yes", prompt="Undo the newest migration? What it created is dropped, with its data.")
def rollback() -> None:
    """Undo the newest applied migration, with the data that only it made room for."""
    with owner_url(load_settings()) as url:
        _print(Migrator(url).rollback())


@database.command()
def status() -> int:
    """List the migrations. The exit status is 0 only if all are applied, and as they are in the files."""
    with owner_url(load_settings()) as url:
        migrations = Migrator(url).status()
    _print(migrations)
    return 0 if all(migration.applied and not migration.edited for migration in migrations) else 1


def _print(migrations: list[Migration]) -> None:
    for migration in migrations:
        condition = "edited since" if migration.edited else "applied" if migration.applied else "pending"
        click.echo(f"{condition:<12}  {migration.name}")
