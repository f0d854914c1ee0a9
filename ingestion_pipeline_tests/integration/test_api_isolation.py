"""Owners don't see each other, over HTTP and in SQL; the API's role can do no more than the API does."""

from contextlib import closing
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from conftest import DatabaseUrls
from document_journey import Journey
from running_api import KEY, OTHER_KEY, OTHER_OWNER, OWNER, RunningApi

TABLES = ("documents", "upload_jobs", "events", "document_chunks", "owned_vectors")


@pytest.fixture
def document_id(api: RunningApi, database_urls: DatabaseUrls) -> str:
    """A complete document of OWNER."""
    found: str = api.upload(b"# mine").json()["document_id"]
    with closing(Journey(database_urls.worker, UUID(found))) as journey:
        journey.complete(["the pump leaks"])
    return found


def as_api(url: str, statement: str, owner: UUID | None = OWNER) -> list[tuple[Any, ...]]:
    """Run a statement as the API's role does for an owner."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        if owner is not None:
            cursor.execute("select set_config('request.jwt.claims', %s, true)", (f'{{"sub": "{owner}"}}',))
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("path", ["/documents/{}", "/documents/{}/events"])
def test_a_document_of_another_owner_is_a_404(api: RunningApi, document_id: str, path: str) -> None:
    assert api.request("GET", path.format(document_id)).status_code == 200
    response = api.request("GET", path.format(document_id), key=OTHER_KEY)

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_lists_counts_and_search_of_another_owner_are_empty(api: RunningApi, document_id: str) -> None:
    assert api.get("/documents", key=OTHER_KEY)["documents"] == []
    assert api.get("/documents/summary", key=OTHER_KEY)["total"] == 0
    assert api.get("/search", params={"q": "pump"}, key=OTHER_KEY)["results"] == []
    assert api.get("/documents/summary")["total"] == 1


@pytest.mark.parametrize("table", TABLES)
def test_the_role_of_the_api_sees_no_row_of_another_owner_whatever_it_asks(
    database_urls: DatabaseUrls, document_id: str, table: str
) -> None:
    count = f"select count(*) from upload_pipeline.{table}"

    assert as_api(database_urls.api, count)[0][0] > 0
    assert as_api(database_urls.api, count, OTHER_OWNER) == [(0,)]
    assert as_api(database_urls.api, count, owner=None) == [(0,)]


@pytest.mark.parametrize(
    "statement",
    [
        "update upload_pipeline.upload_jobs set state = 'parse_queued'",
        "update upload_pipeline.documents set filename = 'forged'",
        "delete from upload_pipeline.documents",
        "delete from upload_pipeline.events",
        "insert into upload_pipeline.events (document_id, owner_id, actor, to_state, correlation_id, attempt) "
        "select document_id, owner_id, 'forged', 'complete', document_id, 0 from upload_pipeline.documents",
        "select upload_pipeline.apply_parse_outcome('pjb-1', 'success')",
        "select * from upload_pipeline.webhook_deliveries",
        "select * from upload_pipeline.document_chunk_buffer",
        "set row_security = off; select * from upload_pipeline.documents",
        "set role ingest_worker",
        "alter table upload_pipeline.documents disable row level security",
        "create table upload_pipeline.own (id integer)",
        f"insert into upload_pipeline.documents (document_id, owner_id, filename, content_type, size_bytes, sha256, "
        f"object_key) values (gen_random_uuid(), '{OTHER_OWNER}', 'a', 'b', 1, sha256(''), 'k')",
        f"insert into upload_pipeline.upload_jobs (document_id, owner_id, correlation_id) "
        f"values (gen_random_uuid(), '{OTHER_OWNER}', gen_random_uuid())",
    ],
)
def test_the_role_of_the_api_is_refused(database_urls: DatabaseUrls, document_id: str, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        as_api(database_urls.api, statement)


def test_the_role_of_the_api_is_no_superuser_and_bypasses_nothing(database_urls: DatabaseUrls) -> None:
    [flags] = as_api(
        database_urls.api,
        "select rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication from pg_roles "
        "where rolname = current_user",
    )
    assert flags == (False,) * 5


@pytest.mark.parametrize(
    "path",
    ["/documents", "/documents/summary", f"/documents/{OWNER}", f"/documents/{OWNER}/events", "/search?q=x"],
)
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", KEY])
def test_without_a_valid_key_nothing_is_told(api: RunningApi, path: str, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    response = api.request("GET", path, key=None, headers=headers)

    assert (response.status_code, response.json()["code"]) == (401, "not_authenticated")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="ingestion"'
    assert KEY not in response.text
