"""The ledger of what calls of vendors used and cost: written in the transaction of what they paid for."""

from collections.abc import Sequence
from uuid import UUID, uuid4

from ingestion_pipeline.adapters.postgres.connection import Connection
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.domain import VendorCall


def record_calls(connection: Connection, calls: Sequence[VendorCall], owner_id: UUID | None = None) -> None:
    """Append a row for each share of each call; `owner_id` owns those that served no document."""
    shares = [(call, call_id, share) for call, call_id in zip(calls, _ids(calls), strict=True) for share in call.shares]
    if not shares:
        return
    queries().record_calls(
        connection,
        owner_id=owner_id,
        call_ids=[call_id for _, call_id, _ in shares],
        providers=[call.vendor.value for call, _, _ in shares],
        operations=[call.operation for call, _, _ in shares],
        models=[call.model for call, _, _ in shares],
        seconds=[call.seconds for call, _, _ in shares],
        outcomes=[call.outcome for call, _, _ in shares],
        document_ids=[share.document_id for _, _, share in shares],
        tokens=[share.tokens for _, _, share in shares],
        pages=[share.pages for _, _, share in shares],
        costs_usd=[share.cost_usd for _, _, share in shares],
    )


def _ids(calls: Sequence[VendorCall]) -> list[UUID]:
    return [uuid4() for _ in calls]
