"""What the API answers with about usage, budgets and vendors, as JSON. USD are by the vendors' price lists."""

from datetime import date, datetime
from decimal import Decimal
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from ingestion_pipeline.accounts import UsageOfDay, UsageOfDocument
from ingestion_pipeline.domain import BucketLevel, Vendor, VendorHealth
from ingestion_pipeline.remedies import remedy_for


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class Usage(_Schema):
    """What was bought."""

    tokens: int = Field(description="Tokens that the embedder billed.", examples=[18250])
    pages: int = Field(description="Pages that the parser billed.", examples=[12])
    cost_usd: float = Field(examples=[0.045365])

    @classmethod
    def of(cls, record: UsageOfDocument) -> Self:
        """A record of the accounts as JSON."""
        return cls(tokens=record.tokens, pages=record.pages, cost_usd=float(record.cost_usd))


class DayUsage(Usage):
    """What the owner's documents and searches used of one operation on one day."""

    day: date
    provider: str = Field(examples=["openai"])
    operation: str = Field(examples=["embed"])
    model: str = Field(description="The embedding model, or the parse tier.", examples=["text-embedding-3-small"])
    calls: int = Field(description="Requests, also those shared with other owners' documents.", examples=[4])

    @classmethod
    def of_day(cls, record: UsageOfDay) -> Self:
        """A record of the accounts as JSON."""
        return cls(
            day=record.day,
            provider=record.provider,
            operation=record.operation,
            model=record.model,
            calls=record.calls,
            tokens=record.tokens,
            pages=record.pages,
            cost_usd=float(record.cost_usd),
        )


class UsageReport(_Schema):
    """Usage by day in UTC, the oldest day first."""

    first: date = Field(serialization_alias="from", description="The first day.")
    last: date = Field(serialization_alias="to", description="The last day.")
    days: list[DayUsage]
    total: Usage

    @classmethod
    def of(cls, first: date, last: date, found: list[UsageOfDay]) -> Self:
        """Records of the accounts as JSON."""
        total = Usage(
            tokens=sum(record.tokens for record in found),
            pages=sum(record.pages for record in found),
            cost_usd=float(sum((record.cost_usd for record in found), Decimal(0))),
        )
        return cls(first=first, last=last, days=[DayUsage.of_day(record) for record in found], total=total)


class VendorError(_Schema):
    """The last failure that spoke of a vendor's health."""

    code: str = Field(examples=["vendor_unavailable"])
    message: str | None = Field(examples=["OpenAI answers 503"])
    at: datetime
    remedy: str


class VendorState(_Schema):
    """The circuit breaker of a vendor, which all processes share."""

    vendor: Vendor
    state: str = Field(
        description="closed: calls are made; open: none before `reopens_at`; half_open: one call tests the vendor.",
        examples=["closed"],
    )
    since: datetime | None = Field(description="Null for a vendor that has never failed.")
    failures: int = Field(description="Failures in a row.", examples=[0])
    reopens_at: datetime | None
    last_error: VendorError | None

    @classmethod
    def of(cls, vendor: Vendor, known: VendorHealth | None) -> Self:
        """A record of the accounts as JSON; without one the vendor has never failed."""
        if known is None:
            return cls(vendor=vendor, state="closed", since=None, failures=0, reopens_at=None, last_error=None)
        last_error = None
        if known.last_error_code is not None and known.last_error_at is not None:
            last_error = VendorError(
                code=known.last_error_code,
                message=known.last_error_message,
                at=known.last_error_at,
                remedy=remedy_for(known.last_error_code),
            )
        return cls(
            vendor=vendor,
            state=known.state,
            since=known.since,
            failures=known.failures,
            reopens_at=known.reopens_at,
            last_error=last_error,
        )


class RateLimit(_Schema):
    """A limit a minute that all processes keep to together."""

    name: str = Field(examples=["parse_requests"])
    per_minute: float = Field(examples=[20.0])
    available: float = Field(description="May be taken now; negative while something is reserved.", examples=[1.5])
    capacity: float = Field(description="The most that is available at once.", examples=[1.67])
    queue_seconds: float = Field(description="Until the last document that was told to wait has its turn.")

    @classmethod
    def of(cls, level: BucketLevel) -> Self:
        """A record of the accounts as JSON."""
        return cls(
            name=level.bucket,
            per_minute=round(level.per_second * 60, 3),
            available=round(level.level, 3),
            capacity=round(level.capacity, 3),
            queue_seconds=round(level.queue_seconds, 1),
        )


class Budget(_Schema):
    """What may be spent in a day, which begins at midnight UTC."""

    name: str = Field(description="daily (of the installation) or owner_daily.", examples=["owner_daily"])
    limit_usd: float = Field(examples=[10.0])
    spent_usd: float = Field(examples=[3.25])
    left_usd: float = Field(description="Zero when it is used up: documents then wait until tomorrow.", examples=[6.75])

    @classmethod
    def of(cls, name: str, limit: Decimal, spent: Decimal) -> Self:
        """What is left of a limit."""
        left = max(limit - spent, Decimal(0))
        return cls(name=name, limit_usd=float(limit), spent_usd=float(spent), left_usd=float(left))


class Vendors(_Schema):
    """How the vendors are, and what may still be asked of them."""

    vendors: list[VendorState]
    rate_limits: list[RateLimit] = Field(description="Those that were used since they were set.")
    budgets: list[Budget] = Field(description="Those that are set.")
