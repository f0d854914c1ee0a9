"""The stores as a worker reaches them, for commands of an operator."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pydantic import SecretStr

from ingestion_pipeline.cli.owner_database import owner_url
from ingestion_pipeline.local_stack.stack import worker_database_url
from ingestion_pipeline.settings import Settings


@contextmanager
def worker_settings(settings: Settings) -> Iterator[Settings]:
    """Settings as a worker has them: a store that is not named is that of `ingest up` on this data folder."""
    with ExitStack() as stack:
        found: dict[str, Any] = {}
        if settings.worker_database_url is None:
            url = worker_database_url(settings, stack.enter_context(owner_url(settings)))
            found["worker_database_url"] = SecretStr(url)
        if settings.object_store_dir is None:
            found["object_store_dir"] = settings.data_dir.resolve() / "objects"
        yield settings.model_copy(update=found)
