"""The database as its owner reaches it, for commands of an operator."""

from collections.abc import Iterator
from contextlib import contextmanager

from ingestion_pipeline.local_stack.stack import embedded_postgres, owner_database_url
from ingestion_pipeline.settings import Settings


@contextmanager
def owner_url(settings: Settings) -> Iterator[str]:
    """The owner's URL; an embedded server that only this command needs is stopped at the end."""
    server = None if settings.database_url else embedded_postgres(settings)
    was_running = server is None or server.is_running()
    try:
        yield owner_database_url(settings)
    finally:
        if server is not None and not was_running:
            server.stop()
