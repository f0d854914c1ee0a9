"""One behaviour of the object store, on local files and on S3 (moto's server in a process of its own)."""

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from stores_under_test import MEGABYTE, S3Server, keys, parts_of

from ingestion_pipeline.adapters.object_store import DRAFTS, ObstoreObjectStore, local_object_store
from ingestion_pipeline.errors import ObjectMissingError, PermanentError
from ingestion_pipeline.ports import ObjectStore


@dataclass(frozen=True)
class Place:
    """A store under test, and what lies behind it that no listing of ours shows."""

    store: ObstoreObjectStore
    leftovers: Callable[[], list[str]]
    arguments: list[str]


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def local(tmp_path: Path) -> Place:
    def drafts() -> list[str]:
        return sorted(path.name for path in (tmp_path / "objects" / DRAFTS).iterdir())

    return Place(local_object_store(tmp_path / "objects"), drafts, ["local", str(tmp_path / "objects")])


@pytest.fixture
def s3(s3_server: S3Server) -> Place:
    def unfinished() -> list[str]:
        uploads = s3_server.client.list_multipart_uploads(Bucket="documents").get("Uploads", [])
        return sorted(upload["Key"] for upload in uploads)

    prefix = f"tests/{uuid4()}"
    return Place(s3_server.store(prefix=prefix), unfinished, ["s3", s3_server.url, prefix])


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    chosen: Place = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def store(place: Place) -> ObjectStore:
    return place.store


def test_what_is_put_is_got_whole_and_in_parts(store: ObjectStore) -> None:
    data = os.urandom(3 * MEGABYTE + 17)
    store.put("raw/owner/upload", data)
    assert store.get("raw/owner/upload") == data
    assert store.size("raw/owner/upload") == len(data)
    parts = list(store.stream("raw/owner/upload", part_bytes=MEGABYTE))
    assert b"".join(parts) == data
    assert all(MEGABYTE <= len(part) < 2 * MEGABYTE for part in parts[:-1])


def test_what_is_put_unsynced_is_there_at_once_and_can_be_synced(store: ObjectStore) -> None:
    store.put("parsed/a", b"one", is_synced=False)
    store.put("parsed/b", b"two", is_synced=False)
    assert keys(store) == ["parsed/a", "parsed/b"]
    store.sync(["parsed/a", "parsed/b"])
    assert (store.get("parsed/a"), store.get("parsed/b")) == (b"one", b"two")


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("raw/empty", b"")
    assert asyncio.run(store.put_stream("raw/empty-stream", parts_of(b""))) == 0
    assert store.get("raw/empty") == store.get("raw/empty-stream") == b""
    assert list(store.stream("raw/empty")) == []
    assert keys(store) == ["raw/empty", "raw/empty-stream"]


def test_a_put_replaces_an_object_of_the_same_key(store: ObjectStore) -> None:
    store.put("parsed/a", b"first version")
    store.put("parsed/a", b"second")
    assert asyncio.run(store.put_stream("parsed/a", parts_of(b"third version"))) == 13
    assert store.get("parsed/a") == b"third version"
    [stored] = store.list("parsed")
    assert (stored.key, stored.size_bytes) == ("parsed/a", 13)
    assert timedelta(0) <= datetime.now(UTC) - stored.modified_at < timedelta(minutes=1)


def test_a_stream_of_20_megabytes_is_stored_as_it_was(store: ObjectStore) -> None:
    data = os.urandom(20 * MEGABYTE)
    assert asyncio.run(store.put_stream("raw/large", parts_of(data))) == len(data)
    digest = hashlib.sha256()
    for part in store.stream("raw/large"):
        digest.update(part)
    assert digest.digest() == hashlib.sha256(data).digest()
    assert store.size("raw/large") == len(data)


def test_a_large_object_can_be_put_at_once(store: ObjectStore) -> None:
    data = os.urandom(12 * MEGABYTE)
    store.put("raw/large", data)
    assert store.get("raw/large") == data


STREAM_IN_A_PROCESS = """
import asyncio, sys
from pathlib import Path
from ingestion_pipeline.adapters.object_store import local_object_store, s3_object_store

async def parts(count):
    for _ in range(count):
        yield bytes(65536)

def memory():  # the peak of this process; ru_maxrss would start from the peak of the parent
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) // 1024

kind, place, *rest = sys.argv[1:]
store = local_object_store(Path(place)) if kind == "local" else s3_object_store(
    "documents", place, "us-east-1", "AKIDEXAMPLE", "secret", rest[0])
asyncio.run(store.put_stream("raw/warm-up", parts(16)))
sum(map(len, store.stream("raw/warm-up")))
before = memory()
written = asyncio.run(store.put_stream("raw/huge", parts(1600)))
after_writing = memory()
read = sum(map(len, store.stream("raw/huge")))
print(written, read, after_writing - before, memory() - after_writing)
"""


def test_streams_of_100_megabytes_take_less_than_25_megabytes_of_memory(place: Place) -> None:
    run = subprocess.run([sys.executable, "-c", STREAM_IN_A_PROCESS, *place.arguments], capture_output=True, check=True)
    written, read, growth_writing, growth_reading = map(int, run.stdout.split())
    assert written == read == 100 * MEGABYTE
    assert growth_writing < 25
    assert growth_reading < 25


def test_a_listing_shows_the_objects_below_a_prefix_of_whole_segments(store: ObjectStore) -> None:
    for key in ("raw/a/1", "raw/a/2", "raw/ab/1", "parsed/a/1"):
        store.put(key, key.encode())
    assert keys(store, "raw/a") == keys(store, "raw/a/") == ["raw/a/1", "raw/a/2"]
    assert keys(store, "raw") == ["raw/a/1", "raw/a/2", "raw/ab/1"]
    assert keys(store) == ["parsed/a/1", "raw/a/1", "raw/a/2", "raw/ab/1"]
    assert keys(store, "nothing/here") == []


def test_a_listing_is_complete_beyond_one_page(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"raw/many/{number:04}", b"x"), range(1_050)))
    assert keys(store, "raw/many") == [f"raw/many/{number:04}" for number in range(1_050)]


def test_a_deleted_object_is_gone_and_deleting_it_again_is_no_error(store: ObjectStore) -> None:
    store.put("raw/a", b"a")
    store.delete("raw/a")
    store.delete("raw/a")
    assert keys(store) == []
    with pytest.raises(ObjectMissingError):
        store.get("raw/a")


@pytest.mark.parametrize("read", ["get", "size", "stream"])
def test_an_unknown_key_is_a_missing_object(store: ObjectStore, read: str) -> None:
    with pytest.raises(ObjectMissingError, match="raw/unknown") as caught:
        result = getattr(store, read)("raw/unknown")
        list(result)
    assert caught.value.code == "object_missing"
    assert not caught.value.transient


BAD_KEYS = [
    "",
    "/etc/passwd",
    "../up",
    "a/../../b",
    "a//b",
    "a/",
    "./a",
    ".drafts/a",
    "a/b#1",
    "a\\b",
    "a\x00b",
    "ä",
    "x" * 901,
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_could_leave_the_store_is_refused(store: ObjectStore, key: str) -> None:
    async def stream() -> None:
        await store.put_stream(key, parts_of(b"x"))

    calls: list[Callable[[], Any]] = [
        lambda: store.put(key, b"x"),
        lambda: store.get(key),
        lambda: list(store.stream(key)),
        lambda: store.size(key),
        lambda: store.delete(key),
        lambda: asyncio.run(stream()),
    ]
    for call in calls:
        with pytest.raises(PermanentError) as caught:
            call()
        assert caught.value.code == "invalid_object_key"
    assert keys(store) == []


class ClientGoneError(Exception):
    """What the source of an upload raises when its sender disconnects."""


@pytest.mark.parametrize("megabytes", [0, 1, 17])
@pytest.mark.parametrize("error", [ClientGoneError(), FileNotFoundError("of the source")])
def test_an_upload_whose_source_fails_leaves_nothing(place: Place, megabytes: int, error: Exception) -> None:
    async def failing() -> AsyncIterator[bytes]:
        for _ in range(megabytes):
            yield bytes(MEGABYTE)
        raise error

    with pytest.raises(type(error)) as caught:
        asyncio.run(place.store.put_stream("raw/partial", failing()))
    assert caught.value is error
    assert keys(place.store) == place.leftovers() == []


@pytest.mark.parametrize("megabytes", [1, 17])
def test_a_cancelled_upload_leaves_nothing_and_was_never_seen(place: Place, megabytes: int) -> None:
    seen: list[list[str]] = []

    async def upload_and_cancel() -> None:
        waiting = asyncio.Event()

        async def stalling() -> AsyncIterator[bytes]:
            for _ in range(megabytes):
                yield bytes(MEGABYTE)
            seen.append(await asyncio.to_thread(keys, place.store))
            waiting.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(place.store.put_stream("raw/partial", stalling()))
        await waiting.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(upload_and_cancel())
    assert seen == [[]]
    assert keys(place.store) == place.leftovers() == []


def test_an_upload_cancelled_at_any_moment_is_whole_or_absent(place: Place) -> None:
    data = os.urandom(11 * MEGABYTE)

    async def upload(key: str, seconds: float) -> bool:
        task = asyncio.create_task(place.store.put_stream(key, parts_of(data, 512 * 1024)))
        await asyncio.wait([task], timeout=seconds)
        task.cancel()
        try:
            return await task == len(data)
        except asyncio.CancelledError:
            return False

    started = time.monotonic()
    assert asyncio.run(upload("raw/whole", 60))
    duration = time.monotonic() - started
    stored = ["raw/whole"]
    for moment in range(12):
        key = f"raw/upload-{moment:02}"
        if asyncio.run(upload(key, duration * moment / 10)):
            stored.append(key)
    assert keys(place.store) == sorted(stored)
    assert all(place.store.get(key) == data for key in stored)
    assert place.leftovers() == []


def test_many_threads_and_uploads_use_one_store_at_once(store: ObjectStore) -> None:
    bodies = {f"raw/{number}": os.urandom(200_000) for number in range(24)}

    async def upload_all() -> list[int]:
        return await asyncio.gather(*(store.put_stream(f"{key}-s", parts_of(body)) for key, body in bodies.items()))

    assert asyncio.run(upload_all()) == [200_000] * 24
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: store.put(*item), bodies.items()))
        assert list(pool.map(store.get, bodies)) == list(bodies.values())
        assert list(pool.map(lambda key: b"".join(store.stream(f"{key}-s")), bodies)) == list(bodies.values())
    assert len(keys(store)) == 48


def test_writers_of_one_key_leave_one_whole_object(store: ObjectStore) -> None:
    bodies = [bytes([number]) * 300_000 for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda body: store.put("raw/contested", body), bodies))
    assert store.get("raw/contested") in bodies
    assert keys(store) == ["raw/contested"]


def test_the_check_passes_on_a_working_store_and_leaves_nothing(place: Place) -> None:
    place.store.check()
    assert keys(place.store) == place.leftovers() == []
