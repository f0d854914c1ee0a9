"""How a page of documents is found in a database of moderate size, with and without statistics."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
from conftest import DatabaseUrls
from psycopg2.extras import RealDictCursor, execute_values
from stored_documents import sql

from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.domain import sha256_of


@pytest.fixture(scope="module")
def crowded(postgres_server: Any) -> Iterator[DatabaseUrls]:
    """20,000 documents, half of them one owner's, nearly all complete, as in a system that has run for a while."""
    urls = postgres_server.create_database()
    fill(urls)
    sql(urls.owner, "analyze upload_pipeline.documents, upload_pipeline.upload_jobs")
    yield urls
    postgres_server.drop_database(urls.name)


@pytest.fixture(scope="module")
def just_loaded(postgres_server: Any) -> Iterator[DatabaseUrls]:
    """The same before the server has looked at the tables: it plans as if they were nearly empty."""
    urls = postgres_server.create_database()
    for table in ("documents", "upload_jobs"):
        sql(urls.owner, f"alter table upload_pipeline.{table} set (autovacuum_enabled = off)")
    fill(urls)
    yield urls
    postgres_server.drop_database(urls.name)


def fill(urls: DatabaseUrls) -> None:
    rows = [
        (uuid4(), UUID(int=1 if number % 2 else number % 40 + 2), sha256_of(str(number)), number)
        for number in range(20_000)
    ]
    with closing(psycopg2.connect(urls.owner)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("set local session_replication_role = replica")
        execute_values(
            cursor,
            "insert into upload_pipeline.documents "
            "(document_id, owner_id, filename, content_type, size_bytes, sha256, object_key, created_at) values %s",
            rows,
            template="(%s, %s, 'a', 'b', 1, %s, 'k', timestamptz '2026-01-01' + make_interval(secs => %s))",
            page_size=5000,
        )
        cursor.execute(
            "insert into upload_pipeline.upload_jobs (document_id, owner_id, correlation_id, state, parse_job_id, "
            "parse_outcome, parse_poll_at, claimed_by, claim_expires_at, next_attempt_at) "
            "select document_id, owner_id, document_id, "
            "case when n <= 300 then 'uploaded' when n <= 600 then 'parse_queued' when n <= 900 then 'parsed' "
            "else 'complete' end, 'job-' || n, case when n > 600 then 'success' end, now() - make_interval(secs => n), "
            "case when n between 601 and 900 then 'claim-' || n / 10 end, "
            "case when n between 601 and 900 then now() + make_interval(secs => n - 620) end, "
            "now() - make_interval(secs => n) "
            "from (select *, row_number() over (order by document_id) as n from upload_pipeline.documents) as d"
        )


class Explaining(RealDictCursor):
    """Explains every statement in the place of running it."""

    def execute(self, query: Any, parameters: Any = None) -> None:
        text = query.decode() if isinstance(query, bytes) else query
        super().execute("explain " + text, parameters)


def plan(url: str, name: str, *, setting: str = "enable_sort = on", **parameters: Any) -> str:
    """The plan of a named statement, for a connection that acts for owner 1 under a setting of the planner."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor(cursor_factory=Explaining) as cursor:
        RealDictCursor.execute(
            cursor, "select set_config('request.jwt.claims', %s, true)", (json.dumps({"sub": str(UUID(int=1))}),)
        )
        RealDictCursor.execute(cursor, f"set local {setting}")
        cursor.execute(getattr(queries(), name).sql, parameters)
        return "\n".join(row["QUERY PLAN"] for row in cursor.fetchall())


@pytest.mark.parametrize("before_at", [None, "2026-01-01 02:00:00+00"], ids=["first page", "a later page"])
@pytest.mark.parametrize("database", ["crowded", "just_loaded"])
def test_a_page_of_documents_is_found_by_its_index_before_anything_is_joined(
    request: Any, database: str, before_at: str | None
) -> None:
    shown = plan(
        request.getfixturevalue(database).api,
        "list_documents",
        owner_id=UUID(int=1),
        states=None,
        code=None,
        has_error=None,
        before_at=before_at,
        before_id=uuid4() if before_at else None,
        limit=50,
    )
    assert set(re.findall(r"\w+ Scan using \w+ on upload_jobs|\w+ Scan on upload_jobs", shown)) == {
        "Index Scan using upload_jobs_pkey on upload_jobs"
    }, shown
    assert "documents_by_owner" in shown
    if database == "crowded":  # elsewhere the owner's documents look so few that they are sorted
        page = shown[shown.index("CTE page") :]
        assert "Scan using documents_by_owner" in page
        assert "Sort" not in page[: page.index("Scan using documents_by_owner")]
    if before_at:
        assert "ROW(created_at, document_id) < ROW" in shown.partition("Index Cond")[2].splitlines()[0]
