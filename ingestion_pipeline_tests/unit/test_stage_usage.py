"""What a call costs and which document owes how much of it."""

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_pipeline.domain import UsageShare, Vendor
from ingestion_pipeline.stages.usage import (
    EMBEDDING_USD_A_MILLION,
    PARSING_CREDITS_A_PAGE,
    embedding_call,
    embedding_cost_usd,
    parsing_call,
    parsing_cost_usd,
    query_call,
    shared,
)
from mock_services.llamacloud.jobs import CREDITS_A_PAGE

MODEL = "text-embedding-3-small"
ONE, TWO = UUID(int=1), UUID(int=2)


@dataclass(frozen=True)
class Text:
    document_id: UUID
    token_count: int


@pytest.mark.parametrize(
    ("model", "tokens", "cost"),
    [(MODEL, 1_000_000, "0.02"), ("text-embedding-3-large", 500_000, "0.065"), (MODEL, 0, "0"), ("another", 10, "0")],
)
def test_embeddings_cost_what_the_price_list_says(model: str, tokens: int, cost: str) -> None:
    assert embedding_cost_usd(model, tokens) == Decimal(cost)


@pytest.mark.parametrize(("tier", "cost"), [("cost_effective", "0.0375"), ("agentic", "0.125"), ("another", "0")])
def test_parsing_costs_credits_by_the_page(tier: str, cost: str) -> None:
    assert parsing_cost_usd(tier, 10) == Decimal(cost)


def test_the_credits_are_those_that_the_parser_reports() -> None:
    assert {**CREDITS_A_PAGE, **PARSING_CREDITS_A_PAGE} == CREDITS_A_PAGE


@given(
    total=st.integers(0, 10**9),
    weights=st.lists(st.integers(0, 10_000), min_size=1, max_size=50).filter(any),
)
def test_parts_add_up_to_the_whole_and_are_proportional(total: int, weights: list[int]) -> None:
    parts = shared(total, weights)
    assert sum(parts) == total
    assert all(abs(part - total * weight / sum(weights)) < 1.0001 for part, weight in zip(parts, weights, strict=True))
    assert all(part == 0 for part, weight in zip(parts, weights, strict=True) if weight == 0)


def test_nothing_is_shared_among_nobody() -> None:
    with pytest.raises(ValueError, match="nobody"):
        shared(5, [])


def test_a_request_is_shared_among_its_documents_by_their_tokens() -> None:
    call = embedding_call(MODEL, 103, 0.5, [Text(ONE, 20), Text(TWO, 50), Text(ONE, 30)])
    assert (call.vendor, call.model, call.seconds, call.outcome) == (Vendor.OPENAI, MODEL, 0.5, "ok")
    assert [(share.document_id, share.tokens) for share in call.shares] == [(ONE, 52), (TWO, 51)]
    assert sum(share.cost_usd for share in call.shares) == embedding_cost_usd(MODEL, 103)


def test_a_search_is_no_documents() -> None:
    assert query_call(MODEL, 7, 0.1).shares == (UsageShare(None, tokens=7, cost_usd=Decimal("0.00000014")),)


def test_a_parse_job_is_its_documents() -> None:
    assert parsing_call("agentic", ONE, 4).shares == (UsageShare(ONE, pages=4, cost_usd=Decimal("0.05")),)


@given(st.sampled_from(sorted(EMBEDDING_USD_A_MILLION)), st.integers(0, 10**12))
def test_costs_fit_the_ten_decimals_of_the_ledger(model: str, tokens: int) -> None:
    cost = embedding_cost_usd(model, tokens)
    assert cost == round(cost, 10)
