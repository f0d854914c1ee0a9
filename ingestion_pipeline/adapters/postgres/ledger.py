"""The ledger of what calls of vendors used and cost: written in the transaction of what they paid for."""

from uuid import UUID, uuid4

from ingestion_pipeline.adapters.postgres.connection import Connection
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.domain import VendorCall


def record_call(connection: Connection, call: VendorCall, owner_id: UUID | None = None) -> None:
    """Append a row for each share of a call; `owner_id` owns those that served no document."""
    queries().record_call(
        connection,
        call_id=uuid4(),
        provider=call.vendor.value,
        operation=call.operation,
        model=call.model,
        seconds=call.seconds,
        outcome=call.outcome,
        owner_id=owner_id,
        document_ids=[share.document_id for share in call.shares],
        tokens=[share.tokens for share in call.shares],
        pages=[share.pages for share in call.shares],
        costs_usd=[share.cost_usd for share in call.shares],
    )
