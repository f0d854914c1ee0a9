"""Uploading many files at once and following each until it is settled, without any output of its own."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ingestion_pipeline.cli.client import Accepted, ApiClient, ApiUnavailableError, Record, sentences, with_retries
from ingestion_pipeline.domain import SETTLED, State
from ingestion_pipeline.errors import IngestionError

FIRST_POLL_SECONDS = 0.3
LONGEST_POLL_SECONDS = 3.0
POLLED_AT_ONCE = 100
LOOKED_UP_AT_ONCE = 100

# What a file's row says besides the states of a document.
WAITING = "waiting"
REFUSED = "refused"
NOT_SENT = "not sent"


class StoppedError(Exception):
    """The user has interrupted the command, so this thread gives its file up."""


@dataclass(slots=True)
class FileRow:
    """One file and what became of it. `seconds` run from the begin of its upload to its last change of state."""

    path: Path
    size_bytes: int
    state: str = WAITING
    document_id: str | None = None
    chunks: int | None = None
    seconds: float | None = None
    is_new: bool | None = None
    code: str | None = None
    reason: str = ""

    @property
    def is_accepted(self) -> bool:
        """Whether the API has the file."""
        return self.document_id is not None

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will happen to the file by itself."""
        return self.state in SETTLED or self.state in (REFUSED, NOT_SENT)

    @property
    def is_complete(self) -> bool:
        """Whether search serves the file."""
        return self.state == State.COMPLETE

    def as_json(self) -> dict[str, Any]:
        """The row for programs."""
        return asdict(self) | {"path": str(self.path)}

    def show(self, document: Record) -> bool:
        """Take over what the API says about the document; returns whether its state has changed."""
        has_changed = bool(self.state != document["state"])
        self.document_id = document["document_id"]
        self.state = document["state"]
        self.chunks = document["progress"]["chunks_total"]
        error = document["last_error"]
        self.code = error["code"] if error else None
        self.reason = sentences(error["message"], error["remedy"]) if error else ""
        if self.is_new is False and self.is_settled and document["retry_path"]:
            hint = f"It was uploaded before: `ingest retry {self.document_id}` takes it up again"
            self.reason = sentences(self.reason, hint)
        return has_changed


class Transfer:
    """Uploads files by a few threads and, if asked to, polls their documents until all are settled.

    `on_bytes` gets the bytes sent so far of the file at an index, from any thread; `on_change` gets each row whose
    state has changed, in the thread that called `run`.
    """

    def __init__(
        self,
        client: ApiClient,
        paths: Sequence[Path],
        *,
        concurrency: int,
        until_settled: bool,
        timeout_seconds: float | None,
        on_bytes: Callable[[int, int], None],
        on_change: Callable[[FileRow], None],
    ) -> None:
        self.rows = [FileRow(path, size_of(path)) for path in paths]
        self._client = client
        self._concurrency = concurrency
        self._until_settled = until_settled
        self._timeout_seconds = timeout_seconds
        self._on_bytes = on_bytes
        self._on_change = on_change
        self._stopped = threading.Event()
        self._done: SimpleQueue[tuple[int, Future[Accepted]]] = SimpleQueue()
        self._began: dict[int, float] = {}
        self._unsent = 0
        self._last_polled = -1

    def run(self) -> None:
        """Upload what is not there yet. Files that fail become rows with a reason; nothing is raised for them."""
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="upload")
        try:
            for index in self._new():
                self._unsent += 1
                executor.submit(self._upload, index).add_done_callback(partial(self._note_done, index))
            self._follow()
        finally:
            self._stopped.set()
            executor.shutdown(cancel_futures=True)

    def _follow(self) -> None:
        began = time.monotonic()
        pause = FIRST_POLL_SECONDS
        next_poll = began + pause
        while self._unsent or self._unsettled():
            try:
                self._take(*self._done.get(timeout=max(0.0, next_poll - time.monotonic())))
                self._unsent -= 1
            except Empty:
                try:
                    has_changed = self._poll()
                except IngestionError as error:
                    self._give_up(error.message)
                    return
                pause = FIRST_POLL_SECONDS if has_changed else min(pause * 1.3, LONGEST_POLL_SECONDS)
                next_poll = time.monotonic() + pause
            if self._timeout_seconds is not None and time.monotonic() - began > self._timeout_seconds:
                self._give_up(f"Given up after {self._timeout_seconds:g} s; what was sent goes on.")
                return

    def _new(self) -> Iterator[int]:
        """The files that the API does not have; the others get their documents, without being sent."""
        for start in range(0, len(self.rows), LOOKED_UP_AT_ONCE):
            indices = range(start, min(start + LOOKED_UP_AT_ONCE, len(self.rows)))
            hashes = {index: _sha256(self.rows[index].path) for index in indices}
            known: dict[str, Record] = {}
            with contextlib.suppress(IngestionError):  # then the uploads say what is wrong
                known = self._client.known(sorted(filter(None, hashes.values())))
            for index, sha256 in hashes.items():
                if sha256 in known:
                    self._began[index] = time.monotonic()
                    self._on_bytes(index, self.rows[index].size_bytes)
                    self._accept(index, Accepted(known[sha256], is_new=False))
                else:
                    yield index

    def _upload(self, index: int) -> Accepted:
        self._began[index] = time.monotonic()
        return with_retries(partial(self._attempt, index), pause=self._pause)

    def _attempt(self, index: int) -> Accepted:
        sent = 0

        def count(read: int) -> None:
            nonlocal sent
            if self._stopped.is_set():
                raise StoppedError
            sent = min(sent + read, self.rows[index].size_bytes)
            self._on_bytes(index, sent)

        return self._client.upload(self.rows[index].path, count)

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise StoppedError

    def _note_done(self, index: int, future: Future[Accepted]) -> None:
        self._done.put((index, future))

    def _take(self, index: int, future: Future[Accepted]) -> None:
        row = self.rows[index]
        try:
            accepted = future.result()
        except ApiUnavailableError as error:
            row.state, row.code, row.reason = NOT_SENT, error.code, error.message
        except IngestionError as error:
            row.state, row.code, row.reason = REFUSED, error.code, error.message
        except OSError as error:
            row.state, row.code, row.reason = NOT_SENT, "unreadable", f"The file can't be read: {error.strerror}."
        else:
            self._accept(index, accepted)
            return
        self._report(index)

    def _accept(self, index: int, accepted: Accepted) -> None:
        self.rows[index].is_new = accepted.is_new
        self.rows[index].show(accepted.document)
        self._report(index)

    def _unsettled(self) -> list[int]:
        if not self._until_settled:
            return []
        return [index for index, row in enumerate(self.rows) if row.is_accepted and not row.is_settled]

    def _poll(self) -> bool:
        """Ask for documents that are under way, in turns; returns whether any has changed its state."""
        has_changed = False
        unsettled = self._unsettled()
        after = [index for index in unsettled if index > self._last_polled]
        for index in (after + unsettled)[: min(len(unsettled), POLLED_AT_ONCE)]:
            document_id = str(self.rows[index].document_id)
            self._last_polled = index
            if self.rows[index].show(with_retries(partial(self._client.document, document_id), pause=self._pause)):
                has_changed = True
                self._report(index)
        return has_changed

    def _give_up(self, reason: str) -> None:
        for index, row in enumerate(self.rows):
            if row.is_settled or (row.is_accepted and not self._until_settled):
                continue
            if not row.is_accepted:
                row.state = NOT_SENT
            row.reason = f"{reason} {row.reason}".rstrip()
            self._report(index)

    def _report(self, index: int) -> None:
        row = self.rows[index]
        row.seconds = round(time.monotonic() - self._began.get(index, time.monotonic()), 1)
        self._on_change(row)


def _sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal; empty if it can't be read, as its upload will say."""
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""


def size_of(path: Path) -> int:
    """A file's size in bytes, 0 if it is not there any more."""
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the upload will say what is wrong
