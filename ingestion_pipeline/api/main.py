"""The API's composition root and its server: `python -m ingestion_pipeline.api.main`, or
`uvicorn --factory ingestion_pipeline.api.main:build_app`.

Settings: INGEST_API_DATABASE_URL, INGEST_API_KEY, INGEST_WEBHOOK_SECRET, INGEST_OPENAI_API_KEY, and those of the object
store; the rest has defaults.
"""

import sys
import time

import uvicorn
from fastapi import FastAPI

from ingestion_pipeline.adapters.llamacloud_webhook import verify_webhook
from ingestion_pipeline.adapters.postgres.accounts import PostgresAccounts
from ingestion_pipeline.adapters.postgres.catalogue import PostgresCatalogue
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.api.app import create_app
from ingestion_pipeline.api.authentication import KeyAuthenticator
from ingestion_pipeline.api.server import server_config
from ingestion_pipeline.api.services import ApiServices
from ingestion_pipeline.catalogue import ParseNotice
from ingestion_pipeline.composition import budget_limits, embedder, object_store
from ingestion_pipeline.errors import IngestionError
from ingestion_pipeline.logs import configure_logging
from ingestion_pipeline.settings import Settings, load_settings


def build_services(settings: Settings) -> ApiServices:
    """What the settings ask for. Raises ConfigurationError that names each missing setting; connects to nothing."""
    values = settings.require("api_database_url", "api_key", "webhook_secret", "openai_api_key")
    database = Database(
        values["api_database_url"],
        application_name="ingest-api",
        setting="INGEST_API_DATABASE_URL",
        max_connections=settings.database_connections,
    )
    catalogue = PostgresCatalogue(
        database, precision=settings.vector_precision, search_candidates=settings.search_candidates
    )

    def verify(raw_body: bytes, signature: str | None) -> ParseNotice:
        return verify_webhook(
            raw_body, signature, values["webhook_secret"], time.time(), settings.webhook_window_seconds
        )

    return ApiServices(
        catalogue=catalogue,
        accounts=PostgresAccounts(database),
        budgets=budget_limits(settings),
        objects=object_store(settings),
        embedder=embedder(settings, database, is_urgent=True),
        authenticator=KeyAuthenticator({values["api_key"]: settings.api_owner_id}),
        verify_webhook=verify,
        max_upload_bytes=settings.max_upload_bytes,
        close=catalogue.close,
    )


def build_app(settings: Settings | None = None) -> FastAPI:
    """The app as the settings say, by default those of the environment.

    Raises ConfigurationError, DatabaseUnavailableError or StoreUnavailableError.
    """
    configure_logging(include_libraries=True)
    services = build_services(settings or load_settings())
    services.catalogue.check()
    services.objects.check()
    return create_app(services)


def serve_api(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises as `build_app`."""
    uvicorn.Server(server_config(build_app(settings), settings.api_host, settings.api_port)).run()


if __name__ == "__main__":
    try:
        serve_api(load_settings())
    except IngestionError as error:
        sys.exit(f"The API can't start: {error.message}")
