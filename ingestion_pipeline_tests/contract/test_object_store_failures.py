"""The object store when things break: crashes and folders of local files, S3 servers that refuse, stall or stop."""

import asyncio
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from stores_under_test import ACCESS_KEY, MEGABYTE, SECRET, S3Server, keys, parts_of

from ingestion_pipeline.adapters.object_store import (
    DRAFT_LIFETIME_SECONDS,
    DRAFTS,
    local_object_store,
    s3_object_store,
)
from ingestion_pipeline.errors import ConfigurationError, ObjectMissingError, PermanentError, StoreUnavailableError
from ingestion_pipeline.ports import ObjectStore


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


def drafts(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "objects" / DRAFTS).iterdir())


Steps = list[tuple[str, bool]]


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """What has been synced, draft or folder, and whether there was an object under `raw/owner/` by then."""
    steps: Steps = []
    sync = os.fsync

    def recorded(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        is_there = any(tmp_path.glob("objects/raw/owner/*"))
        steps.append(("draft" if path.parent.name == DRAFTS else path.name, is_there))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return steps


DRAFT, FOLDER = ("draft", False), ("owner", True)
NEW_FOLDERS = [DRAFT, FOLDER, ("raw", True), ("objects", True)]


def test_a_local_object_is_synced_before_it_gets_its_key_and_its_folders_after(tmp_path: Path, synced: Steps) -> None:
    store = local_object_store(tmp_path / "objects")
    store.put("raw/owner/first", b"x")
    assert synced == NEW_FOLDERS
    store.delete("raw/owner/first")
    synced.clear()
    asyncio.run(store.put_stream("raw/owner/second", parts_of(b"x")))
    assert synced == [DRAFT, FOLDER], "the folders above it have been durable since"


def test_folders_that_another_process_made_or_that_were_lost_are_synced_too(tmp_path: Path, synced: Steps) -> None:
    (tmp_path / "objects/raw/owner").mkdir(parents=True)
    store = local_object_store(tmp_path / "objects")
    store.put("raw/owner/first", b"x")
    assert synced == NEW_FOLDERS
    shutil.rmtree(tmp_path / "objects/raw")
    synced.clear()
    store.put("raw/owner/second", b"x")
    assert synced == NEW_FOLDERS
    assert store.get("raw/owner/second") == b"x"


def test_what_is_put_unsynced_is_whole_and_its_folder_is_synced_once_for_all(tmp_path: Path, synced: Steps) -> None:
    store = local_object_store(tmp_path / "objects")
    keys = [f"raw/owner/{number}" for number in range(3)]
    for key in keys:
        store.put(key, key.encode(), is_synced=False)
    assert [what for what, _ in synced] == ["draft"] * 3
    synced.clear()
    store.sync(keys)
    assert synced == NEW_FOLDERS[1:]
    assert [store.get(key) for key in keys] == [key.encode() for key in keys]


def test_a_folder_that_can_not_be_synced_is_an_error_that_names_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = local_object_store(tmp_path / "objects")
    store.put("raw/a", b"x", is_synced=False)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnavailableError, match="raw/a") as caught:
        store.sync(["raw/a"])
    assert caught.value.code == "store_full"


STALL_IN_A_PROCESS = """
import asyncio, sys
from pathlib import Path
from ingestion_pipeline.adapters.object_store import local_object_store

async def parts():
    for _ in range(12):
        yield bytes(1 << 20)
    print("stalled", flush=True)
    await asyncio.Event().wait()

asyncio.run(local_object_store(Path(sys.argv[1])).put_stream("raw/partial", parts()))
"""


def test_a_process_killed_in_mid_upload_leaves_a_draft_that_goes_a_day_later(tmp_path: Path) -> None:
    store = local_object_store(tmp_path / "objects")
    command = [sys.executable, "-c", STALL_IN_A_PROCESS, str(tmp_path / "objects")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"stalled\n"
        process.send_signal(signal.SIGKILL)
    assert keys(store) == []
    with pytest.raises(ObjectMissingError):
        store.get("raw/partial")
    assert len(drafts(tmp_path)) == 1
    local_object_store(tmp_path / "objects")
    assert len(drafts(tmp_path)) == 1
    (draft,) = drafts(tmp_path)
    long_ago = time.time() - DRAFT_LIFETIME_SECONDS - 60
    os.utime(draft, (long_ago, long_ago))
    local_object_store(tmp_path / "objects")
    assert drafts(tmp_path) == []


FORBIDDEN_IN_A_PROCESS = """
import os, sys
from pathlib import Path
from ingestion_pipeline.adapters.object_store import local_object_store

store = local_object_store(Path(sys.argv[1]))
if os.geteuid() == 0:
    os.setuid(65534)
try:
    store.check()
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_folder_that_may_not_be_written_is_a_wrong_setting(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    (folder / DRAFTS).mkdir(parents=True)
    (folder / DRAFTS).chmod(0o555)
    command = [sys.executable, "-c", FORBIDDEN_IN_A_PROCESS, str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.startswith("ConfigurationError")
    assert "Permission denied; check the owner and the permissions of the folder" in told


def test_a_file_in_place_of_the_folder_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("not a folder")
    with pytest.raises(ConfigurationError, match="can't be used"):
        local_object_store(tmp_path / "objects")


@pytest.mark.parametrize("key", ["raw/a/b", "raw/a/b/c", "raw"])
def test_on_local_files_a_key_below_or_above_another_key_is_refused(tmp_path: Path, key: str) -> None:
    store = local_object_store(tmp_path / "objects")
    store.put("raw/a", b"x")
    with pytest.raises(PermanentError) as caught:
        store.put(key, b"x")
    assert caught.value.code == "invalid_object_key"
    with pytest.raises(PermanentError) as caught:
        asyncio.run(store.put_stream(key, parts_of(b"x")))
    assert caught.value.code == "invalid_object_key"
    assert keys(store) == ["raw/a"]
    assert drafts(tmp_path) == []


def every_call(store: ObjectStore) -> dict[str, Callable[[], Any]]:
    return {
        "put": lambda: store.put("raw/a", b"x"),
        "put_stream": lambda: asyncio.run(store.put_stream("raw/a", parts_of(bytes(12 * MEGABYTE)))),
        "get": lambda: store.get("raw/a"),
        "stream": lambda: list(store.stream("raw/a")),
        "size": lambda: store.size("raw/a"),
        "delete": lambda: store.delete("raw/a"),
        "list": lambda: list(store.list("raw")),
        "check": store.check,
    }


def assert_unavailable_within(seconds: float, store: ObjectStore) -> None:
    for name, call in every_call(store).items():
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError) as caught:
            call()
        assert time.monotonic() - started < seconds, name
        assert caught.value.transient
        assert SECRET not in str(caught.value)


def test_a_stopped_s3_server_is_an_unavailable_store_within_seconds() -> None:
    server = S3Server()
    store = server.store()
    store.check()
    server.stop()
    assert_unavailable_within(10, store)


def test_an_s3_server_that_never_answers_is_an_unavailable_store_in_bounded_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = s3_object_store("documents", url, "us-east-1", ACCESS_KEY, SECRET, timeout_seconds=0.2)
        assert_unavailable_within(10, store)


def test_an_s3_server_that_stops_in_mid_upload_is_an_unavailable_store() -> None:
    server = S3Server()

    async def parts() -> AsyncIterator[bytes]:
        for number in range(24):
            if number == 8:
                server.stop()
            yield bytes(MEGABYTE)

    with pytest.raises(StoreUnavailableError):
        asyncio.run(server.store().put_stream("raw/a", parts()))


def test_an_unknown_bucket_is_a_wrong_setting(s3_server: S3Server) -> None:
    store = s3_server.store(bucket="not-there")
    for name, call in every_call(store).items():
        if name == "size":  # S3 answers a HEAD without a body, so it can't be told from a missing object
            continue
        with pytest.raises(ConfigurationError, match="NoSuchBucket; check the bucket"):
            call()


def test_refused_credentials_are_a_wrong_setting_and_stay_secret() -> None:
    server = S3Server(INITIAL_NO_AUTH_ACTION_COUNT="1")
    try:
        for call in every_call(server.store()).values():
            with pytest.raises(ConfigurationError, match="check the bucket, the access key") as caught:
                call()
            assert SECRET not in str(caught.value)
            assert ACCESS_KEY not in str(caught.value)
    finally:
        server.stop()


@pytest.mark.parametrize(
    "url", ["ftp://host", "host/path", "https://user:password@host", "https://", "https://host?a=b"]
)
def test_an_endpoint_that_is_not_a_plain_url_is_a_wrong_setting_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        s3_object_store("documents", url, "us-east-1", ACCESS_KEY, SECRET)
    assert "password" not in str(caught.value)


def test_an_endpoint_with_a_path_is_asked_below_that_path() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/storage/v1/s3"
        store = s3_object_store("documents", url, "us-east-1", ACCESS_KEY, SECRET, "main/", timeout_seconds=5)
        reading = pool.submit(store.get, "raw/a")
        connection, _ = listener.accept()
        with connection:
            request = connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\nhello"
            )
            assert reading.result() == b"hello"
    assert request.startswith(b"GET /storage/v1/s3/documents/main/raw/a HTTP/1.1\r\n")
    assert SECRET.encode() not in request
