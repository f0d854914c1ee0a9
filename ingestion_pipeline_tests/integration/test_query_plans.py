"""What runs again and again, over 100,000 documents: by the index that is meant for it, never by reading all of them.

Statements are explained as the role that runs them; functions are run, and what they read is counted.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
from conftest import DatabaseUrls
from crowded_store import ERROR_CODE, OWNER, fill
from psycopg2.extras import RealDictCursor
from stored_documents import MODEL, sql

from ingestion_pipeline.adapters.postgres.queries import queries

DOCUMENTS = 100_000
BIG = {"documents", "upload_jobs", "events", "document_chunks", "webhook_deliveries", "provider_usage"}
SMALL_OWNER = UUID(int=2)


class Explaining(RealDictCursor):
    """Explains every statement in the place of running it."""

    def execute(self, query: Any, parameters: Any = None) -> None:
        text = query.decode() if isinstance(query, bytes) else query
        super().execute("explain (format json) " + text, parameters)


@dataclass
class Plan:
    """Which indexes a statement uses, which indexes and tables it reads from end to end, how many rows it sorts."""

    indexes: set[str] = field(default_factory=set)
    read_whole: set[str] = field(default_factory=set)
    scanned: set[str] = field(default_factory=set)
    sorted_rows: int = 0

    def add(self, node: dict[str, Any]) -> "Plan":
        if "Index Name" in node:
            self.indexes.add(node["Index Name"])
            if "Index Cond" not in node:
                self.read_whole.add(node["Index Name"])
        if node["Node Type"] == "Seq Scan":
            self.scanned.add(node["Relation Name"])
        if "Sort" in node["Node Type"]:
            self.sorted_rows = max(self.sorted_rows, node["Plans"][0]["Plan Rows"])
        for child in node.get("Plans", []):
            self.add(child)
        return self


ACT_FOR = "select set_config('request.jwt.claims', %s, true)"


def plan_of(url: str, name: str, parameters: dict[str, Any], owner: UUID = OWNER, avoided: str = "") -> Plan:
    """`avoided` is a kind of plan node, by its setting, that the planner is to do without if it can."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor(cursor_factory=Explaining) as cursor:
        if avoided:
            RealDictCursor.execute(cursor, f"set {avoided} = off")
        RealDictCursor.execute(cursor, ACT_FOR, (json.dumps({"sub": str(owner)}),))
        cursor.execute(getattr(queries(), name).sql, parameters)
        rows = cursor.fetchall()
        return Plan().add(rows[0]["QUERY PLAN"][0]["Plan"])


@pytest.fixture(scope="module")
def crowded(postgres_server: Any) -> Iterator[DatabaseUrls]:
    """A store of 100,000 documents that nobody changes."""
    urls = postgres_server.create_database()
    fill(urls.owner, DOCUMENTS)
    yield urls
    postgres_server.drop_database(urls.name)


@pytest.fixture(scope="module")
def batch(crowded: DatabaseUrls) -> list[UUID]:
    """The documents of a run: 200 that are being embedded."""
    rows = sql(
        crowded.owner, "select document_id from upload_pipeline.upload_jobs where state = 'embedding_in_progress'"
    )
    assert len(rows) == 200
    return [row[0] for row in rows]


CLAIM = {"claim": "claim-24", "claim_seconds": 60}
WHOLE = {"max_documents": 200, "max_bytes": 1 << 28, "document_bytes": 16_000}
FAILURE = {"code": "x", "message": "x", "stage": "parsed", "delay_seconds": 1}


@pytest.mark.parametrize(
    ("name", "parameters", "index"),
    [
        ("claim_batch", {**CLAIM, **WHOLE, "lane": "submit", "batch_id": uuid4()}, "upload_jobs_ready"),
        ("claim_batch", {**CLAIM, **WHOLE, "lane": "process", "batch_id": uuid4()}, "upload_jobs_ready"),
        ("release_expired_claims", {}, "upload_jobs_claim_expiry"),
        ("overdue_parse_jobs", {"max_documents": 200, "poll_seconds": 60}, "upload_jobs_parse_overdue"),
        ("renew_claim", CLAIM, "upload_jobs_claimed"),
        ("release_claim", {**CLAIM, "document_ids": None}, "upload_jobs_claimed"),
        ("earlier_outcome", {"parse_job_id": "job-77"}, "webhook_deliveries_by_job"),
        ("finish_batch", {"batch_id": uuid4(), "failed_count": 0}, "ingestion_batches_pkey"),
        ("lock_retirable", {"settled_seconds": 30 * 86400, "limit": 200}, "upload_jobs_retirable"),
        ("awaited_partitions", {"limit": 200}, "upload_jobs_to_restore"),
        ("ask_back", {"document_ids": None, "state": "failed_parse", "limit": 1000}, "upload_jobs_by_owner_state"),
    ],
)
def test_a_pollers_statement_uses_its_index(
    crowded: DatabaseUrls, name: str, parameters: dict[str, Any], index: str
) -> None:
    plan = plan_of(crowded.worker, name, parameters)
    assert index in plan.indexes
    assert plan.scanned & BIG == set()


def test_counting_what_is_due_reads_no_more_than_that(crowded: DatabaseUrls) -> None:
    for lane in ("submit", "process"):
        plan = plan_of(crowded.worker, "due_documents", {"lane": lane, "most": 4000})
        assert plan.indexes == {"upload_jobs_ready", "documents_pkey"}
        assert plan.scanned == set()


def test_counting_the_batches_at_work_reads_claimed_documents_only(crowded: DatabaseUrls) -> None:
    for lane in ("submit", "process"):
        plan = plan_of(crowded.worker, "active_batches", {"lane": lane})
        assert plan.indexes & {"upload_jobs_claimed", "upload_jobs_claim_expiry"}
        assert plan.scanned == set()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("load_documents", {}),
        ("claim_documents", CLAIM),
        ("hold_claim", CLAIM),
        ("advance", {**CLAIM, "from_state": "embedding_in_progress", "to_state": "embeddings_stored"}),
        ("record_retired", {}),
        ("reuse_vectors", {"model": MODEL}),
        ("missing_vectors", {"model": MODEL, "most": 1000}),
        ("vector_facts", {"model": MODEL}),
        ("documents_with_vectors", {}),
        ("clear_chunk_buffer", {}),
        ("drop_served_chunks", {}),
        ("promote_chunks", {}),
        ("promotion_facts", {"model": MODEL}),
        ("drop_outdated_vectors", {}),
        ("document_spending", {"model": MODEL}),
    ],
)
def test_a_statement_of_a_run_reads_its_documents_and_no_others(
    crowded: DatabaseUrls, batch: list[UUID], name: str, parameters: dict[str, Any]
) -> None:
    plan = plan_of(crowded.worker, name, {**parameters, "document_ids": batch})
    assert plan.scanned & BIG == set()  # the buffers hold what is at work, and may be read whole


@pytest.fixture(scope="module")
def flooded(postgres_server: Any) -> Iterator[DatabaseUrls]:
    """A store whose buffers filled up faster than the server could take statistics."""
    urls = postgres_server.create_database()
    fill(urls.owner, 10_000, is_analyzed=False)
    yield urls
    postgres_server.drop_database(urls.name)


@pytest.mark.parametrize(
    "name",
    [
        *("reuse_vectors", "missing_vectors", "vector_facts", "drop_served_chunks", "promote_chunks"),
        *("promotion_facts", "drop_outdated_vectors", "documents_with_vectors", "document_spending"),
        "clear_chunk_buffer",
    ],
)
def test_in_a_flood_a_run_reads_no_other_documents_either(flooded: DatabaseUrls, name: str) -> None:
    wanted = {"document_ids": [uuid4() for _ in range(64)], "model": MODEL, "most": 1000}
    plan = plan_of(flooded.worker, name, wanted)
    assert plan.scanned == set()
    assert not plan.read_whole


@pytest.mark.parametrize(
    ("name", "indexes"),
    [
        ("vector_facts", {"document_chunk_buffer_pkey", "document_vectors_pkey"}),
        (
            "promotion_facts",
            {
                *("document_chunk_buffer_pkey", "document_vectors_pkey"),
                *("document_chunks_document_id_ordinal_key", "document_chunks_pkey"),
            },
        ),
    ],
)
@pytest.mark.parametrize("avoided", ["enable_nestloop", "enable_hashjoin"])
def test_whatever_join_statistics_favour_a_run_goes_from_chunk_to_chunk(
    flooded: DatabaseUrls, name: str, indexes: set[str], avoided: str
) -> None:
    """Those of a bad moment favour one that reads whole tables for a document, or a whole document for a chunk."""
    wanted = {"document_ids": [uuid4() for _ in range(64)], "model": MODEL}
    plan = plan_of(flooded.worker, name, wanted, avoided=avoided)
    assert plan.scanned == set()
    assert not plan.read_whole
    assert plan.indexes == indexes


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("record_retry", {**CLAIM, **FAILURE}),
        ("record_postponement", {**CLAIM, **FAILURE, "attempt": 0}),
        ("record_dead_letter", {**CLAIM, **FAILURE, "from_state": "parsed", "to_state": "failed_parse"}),
        ("resubmit", {**CLAIM, **FAILURE}),
        ("record_parse_submitted", {**CLAIM, "parse_job_id": "job", "poll_seconds": 60}),
    ],
)
def test_a_statement_about_one_document_finds_it_by_its_key(
    crowded: DatabaseUrls, batch: list[UUID], name: str, parameters: dict[str, Any]
) -> None:
    plan = plan_of(crowded.worker, name, {**parameters, "document_id": batch[0]})
    assert plan.indexes & {"upload_jobs_pkey", "upload_jobs_claimed"}
    assert plan.scanned == set()


LISTED: dict[str, Any] = {
    "states": None,
    "code": None,
    "has_error": None,
    "before_at": None,
    "before_id": None,
    "limit": 50,
}


@pytest.mark.parametrize(
    ("selection", "index"),
    [
        ({}, "documents_by_owner"),
        (
            {"before_at": datetime.now(UTC) - timedelta(seconds=DOCUMENTS / 2), "before_id": uuid4()},
            "documents_by_owner",
        ),
        ({"states": ["complete"]}, "documents_by_owner"),
        ({"states": ["failed_parse"]}, "upload_jobs_by_owner_state"),
        ({"code": ERROR_CODE}, "upload_jobs_failing"),
        ({"has_error": True}, "upload_jobs_failing"),
    ],
    ids=["first page", "a page in the middle", "nearly all", "a few", "by error code", "with an error"],
)
def test_a_page_of_documents_reads_what_it_shows(crowded: DatabaseUrls, selection: dict[str, Any], index: str) -> None:
    plan = plan_of(crowded.api, "list_documents", {**LISTED, **selection, "owner_id": OWNER})
    assert index in plan.indexes
    assert plan.scanned & BIG == set()


@pytest.mark.parametrize("selection", [{}, {"states": ["complete"]}], ids=["all", "nearly all"])
def test_a_page_of_the_newest_is_found_without_sorting_the_others(
    crowded: DatabaseUrls, selection: dict[str, Any]
) -> None:
    plan = plan_of(crowded.api, "list_documents", {**LISTED, **selection, "owner_id": OWNER})
    assert plan.sorted_rows <= 2 * LISTED["limit"]


@pytest.mark.parametrize(
    ("name", "parameters", "index"),
    [
        ("get_documents", {}, "documents_pkey"),
        ("list_events", {"after_event_id": 0, "limit": 50}, "events_by_document"),
        ("newest_events", {"limit": 50}, "events_by_document"),
        ("usage_of_document", {}, "provider_usage_by_document"),
    ],
)
def test_a_question_of_the_api_uses_its_index(
    crowded: DatabaseUrls, batch: list[UUID], name: str, parameters: dict[str, Any], index: str
) -> None:
    plan = plan_of(crowded.api, name, {**parameters, "document_id": batch[0], "document_ids": batch[:100]})
    assert index in plan.indexes
    assert plan.scanned & BIG == set()


def test_counting_a_small_owners_documents_reads_no_others(crowded: DatabaseUrls) -> None:
    plan = plan_of(crowded.api, "count_by_state", {"owner_id": SMALL_OWNER}, owner=SMALL_OWNER)
    assert "upload_jobs_by_owner_state" in plan.indexes
    assert plan.scanned == set()


@pytest.mark.parametrize("name", ["usage_by_day", "spent_today_by"])
def test_what_a_small_owner_spent_is_added_up_from_this_owners_entries(crowded: DatabaseUrls, name: str) -> None:
    span = {"first": datetime.now(UTC).date() - timedelta(days=1), "last": datetime.now(UTC).date()}
    plan = plan_of(crowded.api, name, {**span, "owner_id": SMALL_OWNER}, owner=SMALL_OWNER)
    assert "provider_usage_by_owner" in plan.indexes
    assert plan.scanned == set()


def test_what_was_spent_on_one_day_is_added_up_from_an_index(crowded: DatabaseUrls) -> None:
    with closing(psycopg2.connect(crowded.owner)) as connection, connection.cursor() as cursor:
        cursor.execute("update upload_pipeline.provider_usage set at = at - interval '30 days'")
        cursor.execute("analyze upload_pipeline.provider_usage")
        cursor.execute("explain (format json) " + queries().spent_today.sql)
        ((plan,),) = cursor.fetchall()
        connection.rollback()
    found = Plan().add(plan[0]["Plan"])
    assert found.indexes & {"provider_usage_by_time", "provider_usage_by_owner"}
    assert found.scanned == set()


def test_a_search_of_a_small_owner_compares_this_owners_vectors_only(crowded: DatabaseUrls) -> None:
    parameters = {"owner_id": SMALL_OWNER, "query": str([1.0] * 1536), "model": MODEL, "limit": 10, "is_exact": False}
    plan = plan_of(crowded.api, "search", parameters, owner=SMALL_OWNER)
    assert plan.indexes >= {"document_vectors_by_content", "document_chunks_pkey", "documents_pkey"}
    assert plan.scanned == set()


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("api", "select upload_pipeline.receive_parse_event('s', 'e', 'parse.success', 'job-12', 'success')"),
        ("worker", "select upload_pipeline.apply_parse_outcome('job-12', 'success')"),
        ("api", "select upload_pipeline.retry_document(md5('document 34')::uuid, false)"),
        ("api", "select upload_pipeline.cancel_document(md5('document 24')::uuid)"),
        ("worker", "select upload_pipeline.replay_document(md5('document 34')::uuid, false)"),
    ],
)
def test_a_function_of_the_database_reads_no_big_table_from_end_to_end(
    crowded: DatabaseUrls, role: str, statement: str
) -> None:
    with closing(psycopg2.connect(getattr(crowded, role))) as connection, connection.cursor() as cursor:
        cursor.execute(ACT_FOR, (json.dumps({"sub": str(OWNER)}),))
        cursor.execute(statement)
        assert cursor.fetchone() not in [(None,), (False,), ("waiting",), ("ignored",)]  # it did what it is for
        cursor.execute("select relname, seq_tup_read from pg_stat_xact_user_tables where seq_tup_read > 0")
        read = dict(cursor.fetchall())
    assert read.keys() & BIG == set()
