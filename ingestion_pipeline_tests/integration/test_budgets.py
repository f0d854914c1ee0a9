"""Budgets, held against the ledger."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import pytest
from conftest import DatabaseUrls
from stored_documents import MODEL, OTHER_OWNER, OWNER, Walk, register, sql

from ingestion_pipeline.accounts import BudgetLimits
from ingestion_pipeline.adapters.postgres.budgets import PostgresBudgets
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import Document, State
from ingestion_pipeline.errors import BudgetExhaustedError, DocumentBudgetError
from ingestion_pipeline.stages.usage import embedding_cost_usd

SPENT = embedding_cost_usd(MODEL, 9)  # of a document whose vectors are stored
A_DAY = 24 * 3600


@pytest.fixture
def documents(database_urls: DatabaseUrls) -> Iterator[dict[str, Document]]:
    """Of two owners one document each: `paid` has its vectors, `unpaid` has chunks without any."""
    database = Database(database_urls.worker, application_name="test", setting="INGEST_WORKER_DATABASE_URL")
    store = PostgresDocumentStore(database, actor="run", claim_seconds=60.0)
    yield {
        "paid": Walk(store, register(database_urls.owner)[0]).to(State.EMBEDDINGS_STORED),
        "unpaid": Walk(store, register(database_urls.owner, owner=OTHER_OWNER)[0]).to(State.EMBEDDING_IN_PROGRESS),
    }
    database.close()


@pytest.fixture
def budgets(database_urls: DatabaseUrls) -> Iterator[Callable[..., PostgresBudgets]]:
    """Makes budgets, each with connections of its own."""
    with ExitStack() as stack:

        def make(**limits: Decimal) -> PostgresBudgets:
            database = Database(database_urls.worker, application_name="test", setting="INGEST_WORKER_DATABASE_URL")
            stack.callback(database.close)
            return PostgresBudgets(database, BudgetLimits(**limits), MODEL)

        yield make


def refused(budgets: PostgresBudgets, documents: dict[str, Document]) -> dict[str, Any]:
    """What is said of each document, by its name."""
    errors = budgets.refused(list(documents.values()))
    return {name: errors[each.document_id] for name, each in documents.items() if each.document_id in errors}


def test_a_days_budget_of_the_installation_stops_everybody_until_midnight(
    budgets: Callable[..., PostgresBudgets], documents: dict[str, Document]
) -> None:
    found = refused(budgets(daily=SPENT), documents)
    assert set(found) == {"paid", "unpaid"}
    assert {(type(error), error.code, error.uses_attempt) for error in found.values()} == {
        (BudgetExhaustedError, "budget_exhausted", False)
    }
    assert 0 < found["paid"].retry_after_seconds <= A_DAY
    assert refused(budgets(daily=SPENT + Decimal("0.0000000001")), documents) == {}


def test_a_days_budget_of_an_owner_stops_that_owner(
    budgets: Callable[..., PostgresBudgets], documents: dict[str, Document]
) -> None:
    found = refused(budgets(owner_daily=SPENT), documents)
    assert set(found) == {"paid"}
    assert "of its owner is used up" in found["paid"].message


def test_what_was_spent_yesterday_is_forgotten(
    budgets: Callable[..., PostgresBudgets], documents: dict[str, Document], database_urls: DatabaseUrls
) -> None:
    yesterday = "date_trunc('day', now(), 'UTC') - interval '1 second'"
    sql(database_urls.owner, f"update upload_pipeline.provider_usage set at = {yesterday}")
    assert refused(budgets(daily=SPENT, owner_daily=SPENT), documents) == {}


def test_a_document_is_stopped_before_it_is_half_paid(
    budgets: Callable[..., PostgresBudgets], documents: dict[str, Document]
) -> None:
    found = refused(budgets(document=SPENT), {"unpaid": documents["unpaid"]})  # nine tokens are missing
    assert found == {}
    found = refused(budgets(document=SPENT - Decimal("0.0000000001")), {"unpaid": documents["unpaid"]})
    assert isinstance(found["unpaid"], DocumentBudgetError)
    assert found["unpaid"].transient is False


def test_what_was_spent_for_a_document_counts(
    budgets: Callable[..., PostgresBudgets], documents: dict[str, Document]
) -> None:
    assert set(refused(budgets(document=SPENT), documents)) == {"paid"}


def test_without_budgets_nobody_is_asked(documents: dict[str, Document]) -> None:
    nobody: Any = None
    assert PostgresBudgets(nobody, BudgetLimits(), MODEL).refused(list(documents.values())) == {}
    assert PostgresBudgets(nobody, BudgetLimits(daily=Decimal(0)), MODEL).refused([]) == {}


def test_a_budget_of_nothing_buys_nothing(
    budgets: Callable[..., PostgresBudgets], documents: dict[str, Document], database_urls: DatabaseUrls
) -> None:
    sql(database_urls.owner, "delete from upload_pipeline.provider_usage")
    assert documents["paid"].owner_id == OWNER
    for limit in ("daily", "owner_daily", "document"):
        assert set(refused(budgets(**{limit: Decimal(0)}), documents)) == {"paid", "unpaid"}
