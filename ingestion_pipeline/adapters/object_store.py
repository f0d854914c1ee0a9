"""The object store over obstore: local files or any S3 endpoint behind one behaviour, errors classified here.

Local files are written to a draft, synced, renamed, and the folders synced: after a crash or a power cut an object is
whole or absent. Drafts of crashed processes go a day later. Whole objects are plain reads and writes there, as the
threads of obstore cost more than a small file. On S3 an upload that fails is aborted; a process killed in mid-upload
leaves parts that no listing shows, so give the bucket a rule that aborts incomplete multipart uploads.
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import obstore
from obstore.exceptions import GenericError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, S3Store

from ingestion_pipeline.errors import (
    ConfigurationError,
    IngestionError,
    ObjectMissingError,
    PermanentError,
    StoreUnavailableError,
)
from ingestion_pipeline.ports import StoredObject

PART_BYTES = 5 << 20  # the least that S3 takes as a part; streams of less go up in one request
CONCURRENT_PARTS = 2
DRAFTS = ".drafts"
DRAFT_LIFETIME_SECONDS = 24 * 3600.0
MOST_KNOWN_FOLDERS = 10_000
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]{0,199}")
_STATUS = re.compile(r"status code: (\d{3})")
_S3_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_WRONG_SETTINGS = {"NoSuchBucket", "InvalidBucketName", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"}
_FORBIDDEN = {1, 13, 30}  # EPERM, EACCES, EROFS
_NOT_A_FOLDER = {17, 20, 21}  # EEXIST, ENOTDIR, EISDIR: a key below another, which local files can't hold
_FULL = {27, 28, 122}  # EFBIG (a limit of the process), ENOSPC, EDQUOT
Result = TypeVar("Result")


class SyncedFolder:
    """Where local files are drafted and made durable: obstore alone renames without syncing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._durable: set[Path] = set()  # folders whose own entries were synced, so that a crash leaves them

    def new_draft(self) -> str:
        """The key of a draft."""
        return f"{DRAFTS}/{uuid4()}"

    def write(self, draft: str, data: bytes) -> None:
        """Make a draft. OSError."""
        (self._folder / draft).write_bytes(data)

    def read(self, key: str) -> bytes:
        """An object whole. OSError."""
        return (self._folder / key).read_bytes()

    def publish(self, draft: str, key: str) -> None:
        """Give the draft, which is made durable, its key, which is durable only after sync(). OSError."""
        path, target = self._folder / draft, self._folder / key
        _sync(path)
        try:
            path.replace(target)
        except FileNotFoundError:
            self._durable.discard(target.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)

    def sync(self, keys: Iterable[str]) -> None:
        """Make the keys of what was published durable. OSError."""
        for folder in {(self._folder / key).parent for key in keys}:
            _sync(folder)
            if folder not in self._durable:
                for above in folder.relative_to(self._folder).parents:
                    _sync(self._folder / above)
                if len(self._durable) == MOST_KNOWN_FOLDERS:
                    self._durable.clear()
                self._durable.add(folder)

    def remove_old_drafts(self) -> None:
        """Drop what crashed processes left, old enough not to be the work of a live one. OSError."""
        for draft in (self._folder / DRAFTS).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > DRAFT_LIFETIME_SECONDS:
                    draft.unlink()


class ObstoreObjectStore:
    """ports.ObjectStore; safe to use from threads and event loops.

    `name` is what messages call the store. With a `folder`, objects are drafted there; without, the store itself shows
    an object only when its upload is complete, as S3 does.
    """

    def __init__(self, store: LocalStore | S3Store, name: str, folder: SyncedFolder | None = None) -> None:
        self._store = store
        self._name = name
        self._folder = folder

    async def put_stream(self, key: str, parts: AsyncIterator[bytes]) -> int:
        """Write the parts as one object and return its size in bytes, in memory bounded by a few PART_BYTES.

        If the iterator raises or the task is cancelled, no object of this key stays behind: use a key of its own.
        """
        _check(key)
        draft = self._folder.new_draft() if self._folder else key
        size, completing = 0, False
        writer = obstore.open_writer_async(self._store, draft, buffer_size=PART_BYTES, max_concurrency=CONCURRENT_PARTS)
        try:
            await self._step(key, writer.__aenter__())
            async for part in parts:
                size += len(part)
                await self._step(key, writer.write(part))
            completing = True
            await self._step(key, writer.close())
            if self._folder:
                await self._step(key, asyncio.to_thread(self._folder.publish, draft, key))
                await self._step(key, asyncio.to_thread(self._folder.sync, [key]))
        except BaseException as error:
            with contextlib.suppress(Exception):  # parts on their way arrive before the abort, or they would outlive it
                await _to_the_end(writer.flush())
            with contextlib.suppress(Exception):
                await _to_the_end(writer.__aexit__(type(error), error, error.__traceback__))
            for written in {draft, key} if completing else set():
                with contextlib.suppress(Exception):
                    await _to_the_end(obstore.delete_async(self._store, written))
            raise
        return size

    def put(self, key: str, data: bytes, *, is_synced: bool = True) -> None:
        """Write an object whole, replacing one of the same key; if not synced, sync() is still to be called."""
        _check(key)
        with self._errors("write", key):
            if self._folder is None:
                obstore.put(self._store, key, data, max_concurrency=CONCURRENT_PARTS)
                return
            draft = self._folder.new_draft()
            try:
                self._folder.write(draft, data)
                self._folder.publish(draft, key)
            except BaseException:
                with contextlib.suppress(Exception):
                    obstore.delete(self._store, draft)
                raise
            if is_synced:
                self._folder.sync([key])

    def sync(self, keys: Sequence[str]) -> None:
        """What was put under these keys survives a crash from now on."""
        if self._folder is not None:
            with self._errors("write", keys[0]):
                self._folder.sync(keys)

    def get(self, key: str) -> bytes:
        """The whole object."""
        _check(key)
        with self._errors("read", key):
            if self._folder is not None:
                return self._folder.read(key)
            return bytes(obstore.get(self._store, key).bytes())

    def stream(self, key: str, part_bytes: int = 1 << 20) -> Iterator[bytes]:
        """The object in parts of at least `part_bytes` but for the last; one version of it, even if it is replaced."""
        _check(key)
        with self._errors("read", key):
            for part in obstore.get(self._store, key).stream(min_chunk_size=part_bytes):
                yield bytes(part)

    def size(self, key: str) -> int:
        """The object's size in bytes."""
        _check(key)
        with self._errors("read", key):
            return int(obstore.head(self._store, key)["size"])

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        _check(key)
        with contextlib.suppress(ObjectMissingError), self._errors("delete", key):
            obstore.delete(self._store, key)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects below a prefix of whole segments, `raw` or `raw/`; the empty one stands for the whole store."""
        below = prefix.removesuffix("/")
        if below:
            _check(below)
        with self._errors("list", below):
            for entries in obstore.list(self._store, below or None, chunk_size=1000):
                for entry in entries:
                    if not entry["path"].startswith(f"{DRAFTS}/"):
                        yield StoredObject(entry["path"], entry["size"], entry["last_modified"])

    def check(self) -> None:
        """Write, read and delete a small object: the settings allow all that the pipeline does."""
        key = f"checks/{uuid4()}"
        self.put(key, b"check")
        if self.get(key) != b"check":
            raise StoreUnavailableError(f"the {self._name} does not give back what was written")
        self.delete(key)

    async def _step(self, key: str, operation: Awaitable[Result]) -> Result:
        with self._errors("write", key):
            return await _to_the_end(operation)

    @contextlib.contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if verb == "write" or "NoSuchBucket" in str(error):
                raise _classified(error, f"the {self._name} could not {verb} {key!r}") from error
            raise ObjectMissingError(f"the {self._name} has no object {key!r}") from error
        except (GenericError, PermissionDeniedError, UnauthenticatedError, OSError) as error:
            raise _classified(error, f"the {self._name} could not {verb} {key!r}") from error


def local_object_store(folder: Path) -> ObstoreObjectStore:
    """Objects as files below a folder, which is made if it is not there. ConfigurationError if that fails."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / DRAFTS).mkdir(exist_ok=True)
        absolute = folder.resolve()
        synced = SyncedFolder(absolute)
        synced.remove_old_drafts()
    except OSError as error:
        raise ConfigurationError(f"the object store's folder {folder} can't be used: {error.strerror}") from error
    return ObstoreObjectStore(LocalStore(absolute), f"object store in {folder}", synced)


def s3_object_store(
    bucket: str,
    endpoint_url: str | None,
    region: str,
    access_key_id: str,
    secret_access_key: str,
    prefix: str = "",
    *,
    timeout_seconds: float = 60.0,
) -> ObstoreObjectStore:
    """A bucket, or a part of it, by S3 in path style; plain HTTP only if the endpoint's URL says http.

    A request that gets no byte for `timeout_seconds` fails, and is repeated at most twice within twice that time.
    """
    endpoint = urlsplit(endpoint_url or f"https://s3.{region}.amazonaws.com")
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname or endpoint.username or endpoint.query:
        raise ConfigurationError("the S3 endpoint must be a URL https://host/path without user or query")
    store = S3Store(
        bucket,
        prefix=prefix.strip("/") or None,
        endpoint=endpoint.geturl().rstrip("/"),
        region=region,
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        virtual_hosted_style_request=False,
        disable_bulk_delete=True,  # one plain DELETE a key, which every implementation of S3 has
        client_options={
            "allow_http": endpoint.scheme == "http",
            "connect_timeout": timedelta(seconds=min(5.0, timeout_seconds)),
            "read_timeout": timedelta(seconds=timeout_seconds),
            "timeout": timedelta(hours=1),  # of a whole download, however large
        },
        retry_config={
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=2 * timeout_seconds),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
        },
    )
    return ObstoreObjectStore(store, f"bucket {bucket} at {endpoint.hostname}")


def _check(key: str) -> None:
    """Only whole segments of plain ASCII: no way out of the folder, and the same key on every store."""
    if len(key) > 900 or not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise PermanentError(f"{key[:200]!r} is not a key of the object store", code="invalid_object_key")


def _classified(error: Exception, failure: str) -> IngestionError:
    """obstore's text is all there is to tell errors apart; only the status, code and number in it get into messages."""
    text = str(error)
    status, code, os_error = (
        found[1] if (found := rule.search(text)) else "" for rule in (_STATUS, _S3_CODE, _OS_ERROR)
    )
    number = (error.errno if isinstance(error, OSError) else None) or int(os_error or 0)
    reason = code or (f"HTTP {status}" if status else os.strerror(number) if number else "no proper answer")
    message = f"{failure}: {reason}"
    if code in _WRONG_SETTINGS or isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return ConfigurationError(f"{message}; check the bucket, the access key and what that key may do")
    if "Received redirect" in text:
        return ConfigurationError(f"{failure}: redirected; check the endpoint and the region")
    if number in _FORBIDDEN:
        return ConfigurationError(f"{message}; check the owner and the permissions of the folder")
    if number in _NOT_A_FOLDER:
        return PermanentError(message, code="invalid_object_key")
    if number in _FULL:
        return StoreUnavailableError(message, code="store_full")
    if status.startswith("4") and status not in ("404", "408", "429"):
        return PermanentError(message, code="store_rejected")
    return StoreUnavailableError(message)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _to_the_end(operation: Awaitable[Result]) -> Result:
    """Wait for an operation even if the task is cancelled meanwhile, and only then be cancelled."""
    future: asyncio.Future[Any] = asyncio.ensure_future(operation)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # looked at, so that it is not reported as forgotten
        raise cancelled
    result: Result = future.result()
    return result
