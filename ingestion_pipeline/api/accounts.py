"""The endpoints of usage, budgets and vendors."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query

from ingestion_pipeline.api.account_schemas import Budget, RateLimit, UsageReport, Vendors, VendorState
from ingestion_pipeline.api.authentication import CurrentPrincipal
from ingestion_pipeline.api.errors import InvalidRequestError
from ingestion_pipeline.api.openapi import problems
from ingestion_pipeline.api.services import CurrentServices
from ingestion_pipeline.domain import Vendor

DEFAULT_DAYS = 30
MOST_DAYS = 366

router = APIRouter(tags=["usage"])


@router.get("/usage", summary="What was bought, by day", responses=problems(401, 422, 503))
def get_usage(
    principal: CurrentPrincipal,
    services: CurrentServices,
    first: Annotated[
        date | None, Query(alias="from", description="The first day (UTC); by default 29 before `to`.")
    ] = None,
    last: Annotated[date | None, Query(alias="to", description="The last day (UTC); by default today.")] = None,
) -> UsageReport:
    """Tokens, pages and USD of the owner's documents and searches, by day, operation and model."""
    last = last or datetime.now(UTC).date()
    first = first or last - timedelta(days=min(DEFAULT_DAYS - 1, (last - date.min).days))
    if not 0 <= (last - first).days < MOST_DAYS:
        raise InvalidRequestError(f"From {first} to {last} is not a span of 1 to {MOST_DAYS} days.")
    return UsageReport.of(first, last, services.accounts.usage(principal.owner_id, first=first, last=last))


@router.get("/vendors", summary="How the vendors are", responses=problems(401, 503))
def get_vendors(principal: CurrentPrincipal, services: CurrentServices) -> Vendors:
    """Circuit breakers, rate limits, and what is left of today's budgets."""
    known = {health.vendor: health for health in services.accounts.health()}
    spent = services.accounts.spent_today(principal.owner_id)
    budgets = [
        ("daily", services.budgets.daily, spent.installation),
        ("owner_daily", services.budgets.owner_daily, spent.owner),
    ]
    return Vendors(
        vendors=[VendorState.of(vendor, known.get(vendor)) for vendor in Vendor],
        rate_limits=[RateLimit.of(level) for level in services.accounts.levels()],
        budgets=[Budget.of(name, limit, used) for name, limit, used in budgets if limit is not None],
    )
