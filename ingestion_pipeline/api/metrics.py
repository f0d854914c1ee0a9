"""Figures for Prometheus, in its text format 0.0.4: of the key's owner, and of the vendors, which all owners share.

Behind the bearer key like everything that tells of an owner; Prometheus sends one (`authorization` of a scrape config).
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from ingestion_pipeline.api.authentication import CurrentPrincipal
from ingestion_pipeline.api.openapi import problems
from ingestion_pipeline.api.services import CurrentServices
from ingestion_pipeline.domain import State, Vendor

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BREAKER_STATES = ("closed", "half_open", "open")
Labels = tuple[tuple[str, str], ...]

router = APIRouter(tags=["usage"])


@router.get(
    "/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse, responses=problems(401, 503)
)
def get_metrics(principal: CurrentPrincipal, services: CurrentServices) -> PlainTextResponse:
    """Documents by state, circuit breakers, and today's tokens, pages and USD."""
    counts = services.catalogue.count_by_state(principal.owner_id)
    known = {health.vendor: health.state for health in services.accounts.health()}
    today = datetime.now(UTC).date()
    used = services.accounts.usage(principal.owner_id, first=today, last=today)
    operations = {(("provider", day.provider), ("operation", day.operation), ("model", day.model)): day for day in used}
    spent = services.accounts.spent_today(principal.owner_id)
    lines = [
        *_gauge(
            "ingest_documents",
            "The owner's documents in each state.",
            {(("state", state.value),): counts.get(state, 0) for state in State},
        ),
        *_gauge(
            "ingest_vendor_breaker",
            "1 for the state in which the circuit breaker of a vendor is.",
            {
                (("vendor", vendor.value), ("state", state)): int(known.get(vendor, "closed") == state)
                for vendor in Vendor
                for state in BREAKER_STATES
            },
        ),
        *_gauge(
            "ingest_tokens_today", "Tokens since midnight UTC.", {of: day.tokens for of, day in operations.items()}
        ),
        *_gauge("ingest_pages_today", "Pages since midnight UTC.", {of: day.pages for of, day in operations.items()}),
        *_gauge(
            "ingest_spent_usd_today",
            "USD since midnight UTC, of the owner and of the whole installation.",
            {(("by", "owner"),): float(spent.owner), (("by", "installation"),): float(spent.installation)},
        ),
    ]
    return PlainTextResponse("\n".join(lines) + "\n", media_type=MEDIA_TYPE)


def _gauge(name: str, explained: str, values: Mapping[Labels, float]) -> Iterator[str]:
    """Labels are names of ours: none needs to be escaped."""
    yield f"# HELP {name} {explained}"
    yield f"# TYPE {name} gauge"
    for labels, value in values.items():
        told = ",".join(f'{label}="{text}"' for label, text in labels)
        yield f"{name}{{{told}}} {value}"
