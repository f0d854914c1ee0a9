"""Composition root of the workers: plain objects from settings, once a process."""

from functools import cache

import dagster as dg

from ingestion_pipeline.composition import (
    budgets,
    document_store,
    embedder,
    object_store,
    parser,
    partitions,
    vendor_watch,
    worker_database,
)
from ingestion_pipeline.logs import configure_logging
from ingestion_pipeline.pipeline.services import Limits, Services
from ingestion_pipeline.settings import Settings, load_settings


@cache
def services_of_process() -> Services:
    """What sensors and runs of this process work with. Raises ConfigurationError that names each missing setting."""
    configure_logging()
    return build_services(load_settings())


def check_database() -> None:
    """Raise ConfigurationError unless the workers' database has a schema as new as this code: with an older one every
    document would fail."""
    database = worker_database(load_settings(), "ingest-check")
    database.check()
    database.close()


def build_services(settings: Settings) -> Services:
    """The adapters that the settings ask for."""
    shared = worker_database(settings, "ingest-guards")
    return Services(
        documents=document_store(settings),
        partitions=partitions(settings),
        objects=object_store(settings),
        parser=parser(settings, shared),
        embedder=embedder(settings, shared),
        budgets=budgets(settings, shared),
        vendors=vendor_watch(shared),
        limits=Limits(
            max_upload_bytes=settings.max_upload_bytes,
            batch_documents=settings.batch_documents,
            batch_bytes=settings.batch_bytes,
            max_attempts=settings.max_attempts,
            max_retry_seconds=settings.max_retry_seconds,
            claim_seconds=settings.claim_seconds,
            parse_poll_seconds=settings.parse_poll_seconds,
            sensor_wait_seconds=settings.sensor_wait_seconds,
            partition_retention_days=settings.partition_retention_days,
        ),
    )


@dg.resource(description="Postgres, object store, parser and embedder, as the settings say.")
def services_resource() -> Services:
    """One set of services for all ticks and runs of a process."""
    return services_of_process()
