"""What the vendors cost, what may be spent, and how the vendors are: records, and Protocols that adapters implement."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from ingestion_pipeline.domain import BucketLevel, Document, VendorHealth
from ingestion_pipeline.errors import IngestionError


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """USD; None is no limit. Days begin at midnight UTC."""

    daily: Decimal | None = None
    owner_daily: Decimal | None = None
    document: Decimal | None = None


@dataclass(frozen=True, slots=True)
class UsageOfDay:
    """What one owner used of one operation on one day; `calls` may have served other owners too."""

    day: date
    provider: str
    operation: str
    model: str
    calls: int
    tokens: int
    pages: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class UsageOfDocument:
    """What was bought for a document since it was uploaded."""

    tokens: int
    pages: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class SpentToday:
    """USD since midnight UTC."""

    installation: Decimal
    owner: Decimal


class Accounts(Protocol):
    """What the API shows, for one owner; of the whole installation only a sum. All raise DatabaseUnavailableError."""

    def usage(self, owner_id: UUID, *, first: date, last: date) -> list[UsageOfDay]:
        """By day in UTC, the first and the last included."""
        ...

    def usage_of_document(self, owner_id: UUID, document_id: UUID) -> UsageOfDocument:
        """All zero for a document without entries."""
        ...

    def spent_today(self, owner_id: UUID) -> SpentToday:
        """For what is left of the budgets."""
        ...

    def health(self) -> list[VendorHealth]:
        """The vendors that ever failed."""
        ...

    def levels(self) -> list[BucketLevel]:
        """The rate limits that were ever used."""
        ...


class Budgets(Protocol):
    """Says who may buy. Raises DatabaseUnavailableError."""

    def refused(self, documents: Sequence[Document]) -> dict[UUID, IngestionError]:
        """Those for which nothing may be bought now: BudgetExhaustedError until tomorrow, or DocumentBudgetError."""
        ...


class VendorWatch(Protocol):
    """Says how the vendors are. Raises DatabaseUnavailableError."""

    def health(self) -> list[VendorHealth]:
        """The vendors that ever failed."""
        ...
