"""The ledger of what calls of vendors used and cost: written in the transaction of what they paid for."""

from collections.abc import Sequence
from uuid import UUID

from ingestion_pipeline.adapters.postgres.connection import Connection
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.domain import VendorCall


def record_calls(connection: Connection, calls: Sequence[VendorCall], owner_id: UUID | None = None) -> None:
    """Append a row for each share of each call; `owner_id` owns those that served no document."""
    shares = [(call, share) for call in calls for share in call.shares]
    if not shares:
        return
    queries().record_calls(
        connection,
        owner_id=owner_id,
        call_ids=[call.call_id for call, _ in shares],
        providers=[call.vendor.value for call, _ in shares],
        operations=[call.operation for call, _ in shares],
        models=[call.model for call, _ in shares],
        seconds=[call.seconds for call, _ in shares],
        outcomes=[call.outcome for call, _ in shares],
        document_ids=[share.document_id for _, share in shares],
        tokens=[share.tokens for _, share in shares],
        pages=[share.pages for _, share in shares],
        costs_usd=[share.cost_usd for _, share in shares],
    )
