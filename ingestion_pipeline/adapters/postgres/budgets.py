"""Budgets, held against the ledger: of the installation and of each owner by day, and of each document."""

import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID

from ingestion_pipeline.accounts import BudgetLimits
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.queries import queries, uuid_array
from ingestion_pipeline.domain import Document
from ingestion_pipeline.errors import BudgetExhaustedError, DocumentBudgetError, IngestionError
from ingestion_pipeline.stages.usage import embedding_cost_usd

FRESH_SECONDS = 1.0


class PostgresBudgets:
    """Implements accounts.Budgets. Without limits nothing is asked.

    A daily budget is used up once so much was spent, so that the last calls before may overdraw it. A document's is
    compared with what was spent for it and what its missing vectors will cost, so that it stops before it is half paid.
    """

    def __init__(self, database: Database, limits: BudgetLimits, model: str) -> None:
        self._database = database
        self._limits = limits
        self._model = model
        self._queries = queries()
        self._lock = threading.Lock()
        self._spent: dict[UUID | None, Decimal] = {}
        self._day_ends_in = 0.0
        self._asked_at = -FRESH_SECONDS

    def refused(self, documents: Sequence[Document]) -> dict[UUID, IngestionError]:
        found: dict[UUID, IngestionError] = {}
        if documents and (self._limits.daily is not None or self._limits.owner_daily is not None):
            found |= self._over_the_days(documents)
        if documents and self._limits.document is not None:
            found |= self._over_their_own(documents, self._limits.document)
        return found

    def _over_the_days(self, documents: Sequence[Document]) -> dict[UUID, IngestionError]:
        with self._lock:
            if time.monotonic() - self._asked_at >= FRESH_SECONDS:
                self._ask()
            spent, day_ends_in = self._spent, self._day_ends_in
        found: dict[UUID, IngestionError] = {}
        for document in documents:
            for whose, limit, total in (
                ("of the installation", self._limits.daily, sum(spent.values(), Decimal(0))),
                ("of its owner", self._limits.owner_daily, spent.get(document.owner_id, Decimal(0))),
            ):
                if limit is not None and total >= limit:
                    reason = f"the daily budget {whose} is used up: {total:.4f} of {limit} USD"
                    found[document.document_id] = BudgetExhaustedError(reason, retry_after_seconds=day_ends_in)
        return found

    def _ask(self) -> None:
        with self._database.transaction(actor="budgets") as connection:
            self._spent = {row["owner_id"]: row["cost_usd"] for row in self._queries.spent_today(connection)}
            self._day_ends_in = self._queries.rest_of_day(connection)["seconds"]
        self._asked_at = time.monotonic()

    def _over_their_own(self, documents: Sequence[Document], limit: Decimal) -> dict[UUID, IngestionError]:
        wanted = uuid_array(document.document_id for document in documents)
        with self._database.transaction(actor="budgets") as connection:
            rows = list(self._queries.document_spending(connection, document_ids=wanted, model=self._model))
        found: dict[UUID, IngestionError] = {}
        for row in rows:
            spent, to_come = row["cost_usd"], embedding_cost_usd(self._model, row["missing_tokens"])
            if spent >= limit or spent + to_come > limit:
                reason = (
                    f"the document has cost {spent:.6f} USD and needs {to_come:.6f} more: its budget is {limit} USD"
                )
                found[row["document_id"]] = DocumentBudgetError(reason)
        return found
