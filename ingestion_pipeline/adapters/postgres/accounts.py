"""The API's view of the ledger, the budgets and the vendors; row-level security lets an owner's entries through."""

from datetime import date
from uuid import UUID

from ingestion_pipeline.accounts import SpentToday, UsageOfDay, UsageOfDocument
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.adapters.postgres.vendor_guards import PostgresVendorGuards
from ingestion_pipeline.domain import BucketLevel, VendorHealth


class PostgresAccounts:
    """Implements accounts.Accounts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._guards = PostgresVendorGuards(database)
        self._queries = queries()

    def usage(self, owner_id: UUID, *, first: date, last: date) -> list[UsageOfDay]:
        with self._database.transaction(actor="api", owner_id=owner_id) as connection:
            rows = self._queries.usage_by_day(connection, owner_id=owner_id, first=first, last=last)
            return [UsageOfDay(**row) for row in rows]

    def usage_of_document(self, owner_id: UUID, document_id: UUID) -> UsageOfDocument:
        with self._database.transaction(actor="api", owner_id=owner_id) as connection:
            return UsageOfDocument(**self._queries.usage_of_document(connection, document_id=document_id))

    def spent_today(self, owner_id: UUID) -> SpentToday:
        with self._database.transaction(actor="api", owner_id=owner_id) as connection:
            return SpentToday(**self._queries.spent_today_by(connection, owner_id=owner_id))

    def health(self) -> list[VendorHealth]:
        return self._guards.health()

    def levels(self) -> list[BucketLevel]:
        return self._guards.levels()
