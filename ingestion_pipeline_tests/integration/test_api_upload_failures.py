"""Uploads that break off, by the client, the database or the store: what is left is nothing, or what is needed."""

import resource
from collections.abc import Iterator
from typing import Any

from conftest import DatabaseUrls
from running_api import MAX_UPLOAD_BYTES, RunningApi, execute, rows, wait_until
from upload_forms import BOUNDARY, NAMED, TEXT, assert_nothing_is_left, connected, draft_files, post


def test_an_upload_of_unknown_length_is_refused_where_it_passes_the_limit(
    api: RunningApi, database_urls: DatabaseUrls
) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield f"--{BOUNDARY}\r\n{NAMED}\r\n".encode()
        while sent < 8 * MAX_UPLOAD_BYTES:
            sent += 65536
            yield b"x" * 65536

    response = post(api, endless())

    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert_nothing_is_left(api, database_urls)


def test_an_upload_that_finds_no_room_leaves_nothing_and_succeeds_once_there_is_some(
    api: RunningApi, database_urls: DatabaseUrls
) -> None:
    text = b"A page of a book.\n" * (MAX_UPLOAD_BYTES // 40)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(text) // 2, before[1]))  # as a full disk: the rest is not written
    try:
        refused = api.upload(text)
        assert (refused.status_code, refused.json()["code"]) == (503, "store_full")
        assert refused.json()["remedy"].startswith("Make room")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert draft_files(api) == []
    assert_nothing_is_left(api, database_urls)
    assert api.upload(text).status_code == 201


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(database_urls: DatabaseUrls, tmp_path: Any) -> None:
    api = RunningApi(database_urls.api, tmp_path / "objects", {"max_upload_bytes": 64 << 20})
    api.start()
    try:
        with connected(api, 60 << 20) as connection:
            connection.sendall(f"--{BOUNDARY}\r\n{NAMED}\r\n".encode() + b"x" * (20 << 20))
            wait_until(lambda: draft_files(api), "the store holds a part of the upload")

        api.wait_until_idle()
        assert draft_files(api) == []
        assert_nothing_is_left(api, database_urls)
    finally:
        api.stop()


def test_a_client_that_stops_sending_is_told_so_and_leaves_nothing(database_urls: DatabaseUrls, tmp_path: Any) -> None:
    api = RunningApi(database_urls.api, tmp_path / "objects", {"body_pause_seconds": 0.2})
    api.start()
    try:
        with connected(api, MAX_UPLOAD_BYTES) as connection:
            connection.sendall(f"--{BOUNDARY}\r\n{NAMED}\r\nbegun".encode())
            head = connection.recv(4096)
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in head
        assert_nothing_is_left(api, database_urls)
    finally:
        api.stop()


def test_if_the_database_is_away_the_object_is_deleted_and_the_client_may_come_back(
    api: RunningApi, database_urls: DatabaseUrls
) -> None:
    execute(database_urls.owner, f"alter database {database_urls.name} connection limit 0")
    response = api.upload(TEXT)
    execute(database_urls.owner, f"alter database {database_urls.name} connection limit -1")

    assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    assert "ingest_api" not in response.text
    assert_nothing_is_left(api, database_urls)
    assert api.upload(TEXT).status_code == 201


def test_if_the_database_dies_during_the_commit_the_object_is_kept_because_a_row_may_refer_to_it(
    api: RunningApi, database_urls: DatabaseUrls
) -> None:
    execute(
        database_urls.owner,
        """
        create function public.die() returns trigger language plpgsql security definer
        as 'begin perform pg_terminate_backend(pg_backend_pid()); return null; end';
        create constraint trigger die after insert on upload_pipeline.documents deferrable initially deferred
        for each row execute function public.die();
        """,
    )
    response = api.upload(TEXT)
    execute(database_urls.owner, "drop function public.die() cascade")

    assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
    assert len(api.objects()) == 1
    assert api.upload(TEXT).status_code == 201


def test_if_the_object_store_fails_nothing_is_recorded(api: RunningApi, database_urls: DatabaseUrls) -> None:
    (api.folder / ".drafts").rename(api.folder / "elsewhere")
    (api.folder / ".drafts").write_text("a file where the store needs a folder")

    response = api.upload(TEXT)

    assert response.status_code in (500, 503)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert str(api.folder) not in response.text
    assert rows(database_urls.owner, "select count(*) from upload_pipeline.documents") == [(0,)]
