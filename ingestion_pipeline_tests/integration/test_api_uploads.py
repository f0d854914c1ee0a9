"""Uploads over real HTTP: what is taken, once however often it comes, and what is refused."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from conftest import DatabaseUrls
from running_api import MAX_UPLOAD_BYTES, OTHER_KEY, OWNER, RunningApi, rows
from upload_forms import TEXT, assert_nothing_is_left, connected

from ingestion_pipeline.api.multipart import FRAMING_BYTES
from ingestion_pipeline.domain import document_id_for


def test_an_upload_becomes_an_object_a_document_and_a_queued_job(api: RunningApi, database_urls: DatabaseUrls) -> None:
    correlation_id = uuid4()
    response = api.upload(TEXT, headers={"X-Correlation-ID": str(correlation_id)})

    assert response.status_code == 201
    document = response.json()
    document_id = document_id_for(OWNER, hashlib.sha256(TEXT).digest())
    assert document["document_id"] == str(document_id)
    assert response.headers["Location"] == f"/documents/{document_id}"
    assert document["state"] == "uploaded"
    assert document["filename"] == "notes.md"
    assert document["content_type"] == "text/markdown"
    assert document["size_bytes"] == len(TEXT)
    assert document["sha256"] == hashlib.sha256(TEXT).hexdigest()
    assert document["correlation_id"] == str(correlation_id) == response.headers["X-Correlation-ID"]
    [key] = api.objects()
    assert key.startswith(f"raw/{OWNER}/")
    assert api.services.objects.get(key) == TEXT
    assert rows(database_urls.owner, "select document_id::text, object_key from upload_pipeline.documents") == [
        (str(document_id), key)
    ]
    assert rows(
        database_urls.owner, "select state, lane, correlation_id::text, claimed_by from upload_pipeline.upload_jobs"
    ) == [("uploaded", "submit", str(correlation_id), None)]
    assert rows(database_urls.owner, "select actor, from_state, to_state from upload_pipeline.events") == [
        ("api", None, "uploaded")
    ]


def test_the_same_bytes_again_are_the_same_document_and_leave_no_second_object(api: RunningApi) -> None:
    first = api.upload(TEXT)
    again = api.upload(TEXT, name="renamed.md")

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert len(api.objects()) == 1


def test_files_that_are_there_already_are_looked_up_by_their_content(api: RunningApi) -> None:
    mine = api.upload(TEXT).json()
    api.upload(b"# theirs", key=OTHER_KEY)
    contents = [hashlib.sha256(data).hexdigest() for data in (TEXT, b"# theirs", b"# nobody's")]

    assert api.get("/documents/lookup", params={"sha256": contents}) == {"documents": [mine]}
    for refused in ([], ["short"], contents[:1] * 101):
        assert api.request("GET", "/documents/lookup", params={"sha256": refused}).status_code == 422


def test_the_same_bytes_of_two_owners_are_two_documents(api: RunningApi) -> None:
    mine, theirs = api.upload(TEXT), api.upload(TEXT, key=OTHER_KEY)

    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert mine.json()["document_id"] != theirs.json()["document_id"]
    assert len(api.objects()) == 2


def test_twenty_uploads_of_the_same_bytes_at_one_instant_are_one_document_and_one_object(
    api: RunningApi, database_urls: DatabaseUrls
) -> None:
    content = os.urandom(200_000).hex().encode()
    start = Barrier(20)

    def upload(_: int) -> Any:
        start.wait()
        return api.upload(content)

    with ThreadPoolExecutor(20) as threads:
        responses = list(threads.map(upload, range(20)))

    assert sorted(response.status_code for response in responses) == [200] * 19 + [201]
    assert len({response.json()["document_id"] for response in responses}) == 1
    assert rows(database_urls.owner, "select count(*) from upload_pipeline.upload_jobs") == [(1,)]
    [(key,)] = rows(database_urls.owner, "select object_key from upload_pipeline.documents")
    assert api.objects() == [key]
    assert api.services.objects.get(key) == content


@pytest.mark.parametrize(
    ("content", "name", "kind", "status", "code"),
    [
        (b"", "notes.md", "text/markdown", 422, "empty_file"),
        (TEXT, "../notes.md", "text/markdown", 422, "invalid_filename"),
        (TEXT, "n" * 260 + ".md", "text/markdown", 422, "invalid_filename"),
        (b"caf\xe9", "notes.txt", "text/plain", 422, "invalid_utf8"),
        (b"a\0b", "notes.txt", "text/plain", 422, "nul_character"),
        (TEXT, "notes.exe", "application/x-msdownload", 415, "unsupported_type"),
        (TEXT, "report.pdf", "application/pdf", 415, "content_mismatch"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 64, "notes.md", "text/markdown", 415, "content_mismatch"),
        (b"x" * (MAX_UPLOAD_BYTES + 1), "notes.md", "text/markdown", 413, "too_large"),
    ],
)
def test_a_file_that_will_not_do_is_refused_and_leaves_nothing(
    api: RunningApi, database_urls: DatabaseUrls, content: bytes, name: str, kind: str, status: int, code: str
) -> None:
    response = api.upload(content, name=name, kind=kind)

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert_nothing_is_left(api, database_urls)


def test_a_file_of_exactly_the_limit_is_taken(api: RunningApi) -> None:
    response = api.upload(b"x" * MAX_UPLOAD_BYTES)

    assert response.status_code == 201
    assert response.json()["size_bytes"] == MAX_UPLOAD_BYTES


def test_a_declared_length_over_the_limit_is_refused_before_a_byte_of_it_is_sent(api: RunningApi) -> None:
    with connected(api, MAX_UPLOAD_BYTES + FRAMING_BYTES + 1) as connection:
        head = connection.recv(4096)

    assert head.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in head


def test_without_a_key_nothing_of_the_body_is_read(api: RunningApi) -> None:
    with connected(api, MAX_UPLOAD_BYTES, key="wrong") as connection:
        head = connection.recv(4096)

    assert head.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: bearer" in head.lower()
