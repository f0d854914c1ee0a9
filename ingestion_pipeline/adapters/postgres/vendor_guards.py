"""The rows that breakers and rate limits of all processes share; their rules are functions of the schema."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.domain import BucketLevel, Vendor, VendorCall, VendorHealth

Verdict = Literal["closed", "probe", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class BreakerView:
    """What a breaker says: calls pass if it is closed, or for the one whose call is the probe.

    `wait_seconds` is how long it stays open or half open at most; `failures` is how many there were in a row.
    """

    verdict: Verdict
    wait_seconds: float
    failures: int


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """After how many failures in a row a breaker opens, and for how long; how long a probe may take."""

    most_failures: int
    open_seconds: float
    longest_open_seconds: float
    probe_seconds: float


@dataclass(frozen=True, slots=True)
class FailedCall:
    """A failed call of a vendor; it `counts` if it speaks of the vendor's health."""

    call: VendorCall
    message: str
    counts: bool
    retry_after_seconds: float | None


@dataclass(frozen=True, slots=True)
class Take:
    """How much to take from a bucket of a capacity that fills at a rate."""

    bucket: str
    amount: float
    capacity: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Grant:
    """Whether all was taken, and after how long the taker may go ahead, or come back."""

    granted: bool
    wait_seconds: float


class PostgresVendorGuards:
    """Every call is one short transaction. All raise DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = queries()

    def enter(self, vendor: Vendor, probe_id: UUID, probe_seconds: float) -> BreakerView:
        """Ask whether a call may pass; a verdict of `probe` makes it the one under `probe_id`."""
        with self._database.transaction(actor="guards") as connection:
            row = self._queries.enter_vendor(
                connection, vendor=vendor.value, probe_id=probe_id, probe_seconds=probe_seconds
            )
            return BreakerView(**row)

    def failed(self, failed: FailedCall, probe_id: UUID | None, policy: BreakerPolicy) -> BreakerView:
        """Note a failed call, and return the breaker as it is then."""
        call = failed.call
        with self._database.transaction(actor="guards") as connection:
            row = self._queries.record_failed_call(
                connection,
                vendor=call.vendor.value,
                probe_id=probe_id,
                counts=failed.counts,
                most_failures=policy.most_failures,
                open_seconds=policy.open_seconds,
                longest_open_seconds=policy.longest_open_seconds,
                code=call.outcome,
                message=failed.message,
                retry_after=failed.retry_after_seconds,
                call_id=call.call_id,
                operation=call.operation,
                model=call.model,
                tokens=sum(share.tokens for share in call.shares),
                cost_usd=call.cost_usd,
                seconds=call.seconds,
            )
            return BreakerView(**row)

    def succeeded(self, vendor: Vendor, probe_id: UUID | None) -> None:
        """Note a call that was answered."""
        with self._database.transaction(actor="guards") as connection:
            self._queries.record_vendor_success(connection, vendor=vendor.value, probe_id=probe_id)

    def take(self, takes: Sequence[Take], *, longest_wait_seconds: float, is_urgent: bool) -> Grant:
        """Take from all buckets or from none."""
        ordered = sorted(takes, key=lambda take: take.bucket)  # the order in which everybody locks them
        with self._database.transaction(actor="guards") as connection:
            row = self._queries.take_from_buckets(
                connection,
                buckets=[take.bucket for take in ordered],
                amounts=[take.amount for take in ordered],
                capacities=[take.capacity for take in ordered],
                per_second=[take.per_second for take in ordered],
                longest_wait=longest_wait_seconds,
                is_urgent=is_urgent,
            )
            return Grant(**row)

    def health(self) -> list[VendorHealth]:
        """The breakers that ever counted a failure."""
        with self._database.transaction(actor="guards") as connection:
            rows = list(self._queries.vendor_breakers(connection))
        return [VendorHealth(**{**row, "vendor": Vendor(row["vendor"])}) for row in rows]

    def levels(self) -> list[BucketLevel]:
        """The buckets that were ever taken from."""
        with self._database.transaction(actor="guards") as connection:
            return [BucketLevel(**row) for row in self._queries.rate_buckets(connection)]
