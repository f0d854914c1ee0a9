"""The ledger of what calls of vendors used and cost: written in the transaction of what they paid for."""

import json
from collections.abc import Sequence
from uuid import UUID

from ingestion_pipeline.adapters.postgres.connection import Connection
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.domain import VendorCall


def record_calls(connection: Connection, calls: Sequence[VendorCall], owner_id: UUID | None = None) -> None:
    """Append a row for each share of each call; `owner_id` owns those that served no document."""
    rows = [
        {
            "call_id": call.call_id,
            "provider": call.vendor.value,
            "operation": call.operation,
            "model": call.model,
            "seconds": call.seconds,
            "outcome": call.outcome,
            "document_id": share.document_id,
            "tokens": share.tokens,
            "pages": share.pages,
            "cost_usd": share.cost_usd,
        }
        for call in calls
        for share in call.shares
    ]
    if rows:
        queries().record_calls(connection, owner_id=owner_id, rows=json.dumps(rows, default=str))
