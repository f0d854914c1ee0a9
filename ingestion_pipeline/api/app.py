"""The app factory: endpoints over plain services. The API never runs a stage: it commits bytes and rows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from ingestion_pipeline.api import accounts, documents, health, metrics, problems, search, webhooks
from ingestion_pipeline.api.correlation import CorrelationMiddleware
from ingestion_pipeline.api.openapi import describe
from ingestion_pipeline.api.services import ApiServices

VERSION = "0.1.0"
TAGS = [
    {"name": "documents", "description": "Upload, list, follow."},
    {"name": "search", "description": "Passages by meaning."},
    {"name": "usage", "description": "What was bought, what may be spent, how the vendors are."},
    {"name": "webhooks", "description": "Called by outside services."},
    {"name": "health", "description": "Called by whoever watches the process."},
]


def create_app(services: ApiServices) -> FastAPI:
    """The API over these services, which it closes when it shuts down."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        services.close()

    app = FastAPI(
        title="Document ingestion",
        version=VERSION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        # Their pages load scripts from a network that may not be there: /openapi.json is what is served.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.services = services
    app.state.readiness = health.ReadinessCheck(services)
    app.add_middleware(CorrelationMiddleware)
    problems.install(app)
    for module in (documents, search, accounts, metrics, webhooks, health):
        app.include_router(module.router)
    app.openapi = describe(  # type: ignore[method-assign]  # how FastAPI's documentation says to extend it
        app,
        problem_schema=problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}"),
        media_type=problems.MEDIA_TYPE,
    )
    return app
