"""GET /usage and /vendors, and what a document cost."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import DatabaseUrls
from running_api import OTHER_KEY, OTHER_OWNER, OWNER, RunningApi, execute

from ingestion_pipeline.accounts import BudgetLimits

ENTRY = (
    "insert into upload_pipeline.provider_usage"
    " (call_id, at, provider, operation, model, owner_id, document_id, tokens, pages, cost_usd) values"
    " ('{call}', '{at}', '{provider}', '{operation}', 'm', '{owner}', {document}, {tokens}, {pages}, {cost})"
)
ONE_CALL = "00000000-0000-4000-8000-0000000000ca"
ANOTHER_CALL = "00000000-0000-4000-8000-0000000000cb"


@pytest.fixture
def ledger(api: RunningApi, database_urls: DatabaseUrls) -> Any:
    """Writes entries."""

    def write(**changes: Any) -> None:
        given = {
            "call": ONE_CALL,
            "at": "2026-03-05 12:00:00+00",
            "provider": "openai",
            "operation": "embed",
            "owner": OWNER,
            "document": "null",
            "tokens": 0,
            "pages": 0,
            "cost": 0,
        }
        execute(database_urls.owner, ENTRY.format(**given | changes))

    return write


def test_usage_is_told_by_day_and_operation_exactly(api: RunningApi, ledger: Any) -> None:
    ledger(tokens=10, cost="0.0000002")
    ledger(tokens=20, cost="0.0000004")
    ledger(tokens=5, cost="0.0000001", call=ANOTHER_CALL)
    ledger(provider="llamacloud", operation="parse", pages=3, cost="0.01125")
    ledger(at="2026-03-05 23:59:59.999+00", tokens=1)
    ledger(at="2026-03-06 00:00:00+00", tokens=7, cost="0.00000014")
    ledger(at="2026-03-07 00:00:00+00", tokens=100)
    report = api.get("/usage", params={"from": "2026-03-05", "to": "2026-03-06"})
    assert (report["from"], report["to"]) == ("2026-03-05", "2026-03-06")
    told = [(day["day"], day["operation"], day["calls"], day["tokens"], day["pages"]) for day in report["days"]]
    assert told == [
        ("2026-03-05", "parse", 1, 0, 3),
        ("2026-03-05", "embed", 2, 36, 0),
        ("2026-03-06", "embed", 1, 7, 0),
    ]
    assert report["total"] == {"tokens": 43, "pages": 3, "cost_usd": 0.01125084}


def test_an_owner_sees_what_is_his(api: RunningApi, ledger: Any) -> None:
    ledger(tokens=10)
    ledger(tokens=99, owner=OTHER_OWNER)
    span = {"from": "2026-03-01", "to": "2026-03-31"}
    assert api.get("/usage", params=span)["total"]["tokens"] == 10
    assert api.get("/usage", params=span, key=OTHER_KEY)["total"]["tokens"] == 99
    assert api.request("GET", "/usage", key=None).status_code == 401
    assert api.request("GET", "/vendors", key=None).status_code == 401


def test_by_default_usage_is_that_of_the_last_thirty_days(api: RunningApi, ledger: Any) -> None:
    today = datetime.now(UTC)
    ledger(at=today.isoformat(), tokens=1)
    ledger(at=(today - timedelta(days=29)).isoformat(), tokens=10)
    ledger(at=(today - timedelta(days=31)).isoformat(), tokens=100)
    assert api.get("/usage")["total"]["tokens"] in (11, 1)  # 1: midnight has passed in between
    assert len(api.get("/usage")["days"]) >= 1


@pytest.mark.parametrize(
    "span",
    [
        {"from": "2026-03-06", "to": "2026-03-05"},
        {"from": "2024-01-01", "to": "2026-01-01"},
        {"from": "yesterday"},
        {"to": "2026-02-30"},
    ],
    ids=str,
)
def test_a_span_that_is_none_is_refused(api: RunningApi, span: dict[str, str]) -> None:
    response = api.request("GET", "/usage", params=span)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_the_first_and_the_last_day_of_all_are_days(api: RunningApi, day: str) -> None:
    assert api.get("/usage", params={"to": day})["days"] == []


def test_a_document_tells_what_it_cost(api: RunningApi, ledger: Any) -> None:
    document_id = api.upload(b"some notes").json()["document_id"]
    assert api.get(f"/documents/{document_id}")["usage"] == {"tokens": 0, "pages": 0, "cost_usd": 0.0}
    ledger(document=f"'{document_id}'", tokens=50, cost="0.000001")
    ledger(document=f"'{document_id}'", pages=2, cost="0.0075")
    assert api.get(f"/documents/{document_id}")["usage"] == {"tokens": 50, "pages": 2, "cost_usd": 0.007501}


def test_vendors_that_never_failed_are_well(api: RunningApi) -> None:
    told = api.get("/vendors")
    assert [(vendor["vendor"], vendor["state"]) for vendor in told["vendors"]] == [
        ("llamacloud", "closed"),
        ("openai", "closed"),
    ]
    assert (told["rate_limits"], told["budgets"]) == ([], [])


def test_a_paused_vendor_and_a_used_limit_are_told(api: RunningApi, database_urls: DatabaseUrls) -> None:
    execute(
        database_urls.owner,
        "insert into upload_pipeline.vendor_breakers (vendor, state, failures, reopens_at, last_error_code,"
        " last_error_message, last_error_at) values ('openai', 'open', 7, now() + interval '1 minute',"
        " 'rate_limited', 'OpenAI answers 429', now());"
        "insert into upload_pipeline.rate_buckets (bucket, capacity, per_second, level)"
        " values ('parse_requests', 5, 1, 3)",
    )
    told = api.get("/vendors")
    openai = told["vendors"][1]
    assert (openai["state"], openai["failures"], openai["last_error"]["code"]) == ("open", 7, "rate_limited")
    assert openai["last_error"]["remedy"]
    assert openai["reopens_at"] > openai["since"]
    [limit] = told["rate_limits"]
    assert (limit["name"], limit["per_minute"], limit["capacity"]) == ("parse_requests", 60.0, 5.0)
    assert 3.0 <= limit["available"] <= 5.0


def test_prometheus_reads_states_breakers_and_what_was_spent(
    api: RunningApi, database_urls: DatabaseUrls, ledger: Any
) -> None:
    api.upload(b"A text that waits.")
    ledger(at=datetime.now(UTC).isoformat(), tokens=30, cost="0.5")
    ledger(at=datetime.now(UTC).isoformat(), owner=OTHER_OWNER, tokens=7, cost="0.25", call=ANOTHER_CALL)
    execute(
        database_urls.owner,
        "insert into upload_pipeline.vendor_breakers (vendor, state, failures, reopens_at)"
        " values ('openai', 'open', 7, now() + interval '1 minute')",
    )
    answer = api.request("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    told = {(line.split("{")[0], *re.findall(r'"(\w+)"', line)): float(line.split("} ")[1]) for line in lines}
    assert told["ingest_documents", "uploaded"] == 1
    assert told["ingest_documents", "complete"] == 0
    assert told["ingest_vendor_breaker", "openai", "open"] == 1
    assert told["ingest_vendor_breaker", "openai", "closed"] == 0
    assert told["ingest_vendor_breaker", "llamacloud", "closed"] == 1
    assert told["ingest_tokens_today", "openai", "embed", "m"] == 30
    assert (told["ingest_spent_usd_today", "owner"], told["ingest_spent_usd_today", "installation"]) == (0.5, 0.75)
    assert api.request("GET", "/metrics", key=None).status_code == 401


@pytest.fixture
def thrifty(database_urls: DatabaseUrls, tmp_path: Path) -> Iterator[RunningApi]:
    """The API of an installation with budgets."""
    limits = BudgetLimits(daily=Decimal("1.00"), owner_daily=Decimal("0.25"))
    running = RunningApi(database_urls.api, tmp_path / "objects", {"budgets": limits})
    running.start()
    yield running
    running.stop()


def test_what_is_left_of_todays_budgets_is_told(thrifty: RunningApi, database_urls: DatabaseUrls) -> None:
    for owner, cost in ((OWNER, "0.30"), (OTHER_OWNER, "0.10")):
        entry = ENTRY.format(
            call=ONE_CALL, at=datetime.now(UTC).isoformat(), provider="openai", operation="embed", owner=owner,
            document="null", tokens=1, pages=0, cost=cost,
        )  # fmt: skip
        execute(database_urls.owner, entry)
    assert thrifty.get("/vendors")["budgets"] == [
        {"name": "daily", "limit_usd": 1.0, "spent_usd": 0.4, "left_usd": 0.6},
        {"name": "owner_daily", "limit_usd": 0.25, "spent_usd": 0.3, "left_usd": 0.0},
    ]
