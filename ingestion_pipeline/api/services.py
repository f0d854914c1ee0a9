"""What the API works with: plain objects, put together by main.py or by a test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from ingestion_pipeline.accounts import Accounts, BudgetLimits
from ingestion_pipeline.api.authentication import Authenticator
from ingestion_pipeline.catalogue import Catalogue, ParseNotice
from ingestion_pipeline.ports import Embedder, ObjectStore

WebhookVerifier = Callable[[bytes, str | None], ParseNotice]


@dataclass(frozen=True, slots=True)
class ApiServices:
    """Everything outside of the process that the endpoints need, and the limits.

    `verify_webhook` takes the raw body and the header LC-Signature, and raises an IngestionError with the code
    bad_signature, stale_event or malformed_event. `close` is called once, when the app shuts down.
    """

    catalogue: Catalogue
    accounts: Accounts
    objects: ObjectStore
    embedder: Embedder
    authenticator: Authenticator
    verify_webhook: WebhookVerifier
    max_upload_bytes: int
    budgets: BudgetLimits = field(default_factory=BudgetLimits)
    body_pause_seconds: float = 30.0
    readiness_seconds: float = 5.0
    close: Callable[[], None] = lambda: None


def services_of(request: Request) -> ApiServices:
    """The services of the app that a request came to."""
    services: ApiServices = request.app.state.services
    return services


CurrentServices = Annotated[ApiServices, Depends(services_of)]
