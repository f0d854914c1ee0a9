"""The limit: what a program written by hand for nothing but this reaches. Throughput is held against it.

Files are read, or the parser's results fetched, cut by characters, embedded in large requests over bare HTTP, several
in flight, and copied into pgvector in PostgreSQL's binary format. It is incremental and can be resumed: a document's
row, which holds its hash and where its chunks lie in it, is committed after its chunks, and a chunk that is stored
already is not embedded again. It has no states, history, checks, leases, retries or owners, and it counts no tokens.
"""

import asyncio
import binascii
import hashlib
import resource
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psycopg2
import psycopg2.extras
import uvloop
from pydantic_core import from_json, to_json

from ingestion_pipeline_tests.performance.processes import peak_bytes

MODEL = "text-embedding-3-small"
DIMENSIONS = 1536
CHUNK_CHARACTERS = 2000
OVERLAP_CHARACTERS = 200
CHUNKS_A_REQUEST = 256
REQUESTS_IN_FLIGHT = 8
RESULTS_IN_FLIGHT = 16
WRITERS = 2

TABLES = f"""
create extension if not exists vector;
create table if not exists limit_documents (
    name text primary key, sha256 bytea not null,
    digests bytea[] not null, starts integer[] not null, ends integer[] not null
);
create table if not exists limit_chunks (
    name text, digest bytea, content text not null, embedding halfvec({DIMENSIONS}) not null, primary key (name, digest)
);
"""
COPY = "copy limit_chunks (name, digest, content, embedding) from stdin (format binary)"
COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = struct.pack(">h", -1)
VECTOR_HEAD = struct.pack(">iHH", 4 + 2 * DIMENSIONS, DIMENSIONS, 0)
STORE_DOCUMENTS = """
insert into limit_documents values %s on conflict (name) do update
set sha256 = excluded.sha256, digests = excluded.digests, starts = excluded.starts, ends = excluded.ends
"""
DROP_OLD_CHUNKS = """
delete from limit_chunks as c using limit_documents as d
where d.name = any(%s) and c.name = d.name and c.digest <> all(d.digests)
"""


@dataclass(frozen=True, slots=True)
class Results:
    """Texts that are with the parser: names, and ids of the jobs whose results they are."""

    parser_url: str
    jobs: Sequence[tuple[str, str]]


@dataclass(slots=True)
class Outcome:
    """What a run did, in seconds of wall clock and CPU, and its peak of memory in bytes."""

    documents: int = 0
    unchanged: int = 0
    chunks: int = 0
    embedded: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


@dataclass(slots=True)
class _Document:
    """A document on its way; `open` counts its chunks that are not committed yet."""

    name: str
    sha256: bytes
    digests: list[bytes] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    open: int = 0


@dataclass(slots=True)
class _Piece:
    document: _Document
    digest: bytes
    text: str


def run(source: Path | Results, database_url: str, embeddings_url: str) -> Outcome:
    """Bring the database up to date with a folder's files or with results. Tables are made before the clock runs."""
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(TABLES)
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(_Run(source, database_url, embeddings_url).go())
    outcome.seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    outcome.cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    outcome.peak_bytes = peak_bytes()
    return outcome


def cut(text: str) -> Iterator[tuple[int, int]]:
    """Spans of at most CHUNK_CHARACTERS that end, if they can, with a paragraph, a line or a word, and overlap."""
    start = 0
    while len(text) - start > CHUNK_CHARACTERS:
        latest = start + CHUNK_CHARACTERS
        earliest = start + CHUNK_CHARACTERS // 2
        ends = (text.rfind(mark, earliest, latest) for mark in ("\n\n", "\n", " "))
        end = next((found for found in ends if found > 0), latest)
        yield start, end
        space = text.find(" ", end - OVERLAP_CHARACTERS, end)
        start = space + 1 if space >= 0 else end - OVERLAP_CHARACTERS
    yield start, len(text)


class _Run:
    def __init__(self, source: Path | Results, database_url: str, embeddings_url: str) -> None:
        self._source = source
        self._database_url = database_url
        self._embedder = _Client(embeddings_url, "sk-limit")
        self._outcome = Outcome()
        self._done: list[_Document] = []
        self._answers: asyncio.Queue[tuple[list[_Piece], bytes] | None] = asyncio.Queue(2 * WRITERS)

    async def go(self) -> Outcome:
        with (
            ThreadPoolExecutor(WRITERS) as threads,
            closing(psycopg2.connect(self._database_url)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("select name, sha256 from limit_documents")
            self._known = {name: bytes(sha256) for name, sha256 in cursor}
            cursor.execute("select name, array_agg(digest) from limit_chunks group by name")
            self._stored = {name: {bytes(digest) for digest in digests} for name, digests in cursor}
            requests, turn = self._requests(), asyncio.Lock()
            async with asyncio.TaskGroup() as writing:
                for _ in range(WRITERS):
                    writing.create_task(self._write(threads))
                async with asyncio.TaskGroup() as embedding:
                    for _ in range(REQUESTS_IN_FLIGHT):
                        embedding.create_task(self._embed(requests, turn))
                for _ in range(WRITERS):
                    await self._answers.put(None)
            await asyncio.get_running_loop().run_in_executor(threads, self._finish, connection)
        return self._outcome

    async def _texts(self) -> AsyncIterator[tuple[str, bytes]]:
        if isinstance(self._source, Path):
            for path in sorted(self._source.iterdir()):
                yield path.name, path.read_bytes()
            return
        parser = _Client(self._source.parser_url, "llx-limit")
        fetched: deque[tuple[str, asyncio.Task[bytes]]] = deque()
        for name, job in self._source.jobs:
            fetched.append((name, asyncio.create_task(parser.ask(f"GET /api/v2/parse/{job}?expand=markdown"))))
            if len(fetched) == RESULTS_IN_FLIGHT:
                yield await _text(*fetched.popleft())
        for each in fetched:
            yield await _text(*each)

    async def _pieces(self) -> AsyncIterator[list[_Piece]]:
        """Chunks that have no vector yet, of each document that is new or changed."""
        async for name, data in self._texts():
            document = _Document(name, hashlib.sha256(data).digest())
            self._outcome.documents += 1
            if self._known.get(document.name) == document.sha256:
                self._outcome.unchanged += 1
                continue
            text, present, pieces = data.decode(), self._stored.get(document.name, set()), []
            for start, end in cut(text):
                piece = text[start:end]
                digest = hashlib.sha256(piece.encode()).digest()
                document.digests.append(digest)
                document.starts.append(start)
                document.ends.append(end)
                if digest not in present:
                    present.add(digest)
                    pieces.append(_Piece(document, digest, piece))
            self._outcome.chunks += len(document.digests)
            document.open = len(pieces)
            if not pieces:
                self._done.append(document)
            yield pieces

    async def _requests(self) -> AsyncIterator[list[_Piece]]:
        batch: list[_Piece] = []
        async for pieces in self._pieces():
            for piece in pieces:
                batch.append(piece)
                if len(batch) == CHUNKS_A_REQUEST:
                    yield batch
                    batch = []
        if batch:
            yield batch

    async def _embed(self, requests: AsyncIterator[list[_Piece]], turn: asyncio.Lock) -> None:
        while True:
            async with turn:
                batch = await anext(requests, None)
            if batch is None:
                return
            texts = [piece.text for piece in batch]
            body = to_json({"model": MODEL, "input": texts, "encoding_format": "base64"})
            answer = await self._embedder.ask("POST /embeddings", body)
            self._outcome.embedded += len(batch)
            await self._answers.put((batch, _rows(batch, answer)))

    async def _write(self, threads: ThreadPoolExecutor) -> None:
        with closing(psycopg2.connect(self._database_url)) as connection:
            while (item := await self._answers.get()) is not None:
                batch, rows = item
                await asyncio.get_running_loop().run_in_executor(threads, self._copy, connection, rows)
                for piece in batch:
                    piece.document.open -= 1
                    if piece.document.open == 0:
                        self._done.append(piece.document)

    @staticmethod
    def _copy(connection: psycopg2.extensions.connection, rows: bytes) -> None:
        with connection, connection.cursor() as cursor:
            cursor.copy_expert(COPY, BytesIO(rows))

    def _finish(self, connection: psycopg2.extensions.connection) -> None:
        """The rows of the documents whose chunks are all there; chunks that their new text no longer has go."""
        if not self._done:
            return
        rows = [(done.name, done.sha256, done.digests, done.starts, done.ends) for done in self._done]
        changed = [done.name for done in self._done if done.name in self._stored]
        with connection, connection.cursor() as cursor:
            psycopg2.extras.execute_values(cursor, STORE_DOCUMENTS, rows, page_size=500)
            if changed:
                cursor.execute(DROP_OLD_CHUNKS, (changed,))


def _rows(batch: Sequence[_Piece], answer: bytes) -> bytes:
    """The rows of a binary COPY; vectors come as little-endian float32 in base64 and go as big-endian float16."""
    floats = b"".join([binascii.a2b_base64(entry["embedding"]) for entry in from_json(answer)["data"]])
    vectors = memoryview(np.frombuffer(floats, "<f4").astype(">f2").tobytes())
    size = 2 * DIMENSIONS
    parts: list[bytes | memoryview] = [COPY_HEAD]
    for index, piece in enumerate(batch):
        name, content = piece.document.name.encode(), piece.text.encode()
        parts += (struct.pack(">hi", 4, len(name)), name, struct.pack(">i", 32), piece.digest)
        parts += (struct.pack(">i", len(content)), content, VECTOR_HEAD, vectors[index * size : (index + 1) * size])
    parts.append(COPY_END)
    return b"".join(parts)


async def _text(name: str, result: "asyncio.Task[bytes]") -> tuple[str, bytes]:
    pages = from_json(await result)["markdown"]["pages"]
    return name, "\n\n".join([page["markdown"] for page in pages]).encode()


class _Client:
    """HTTP over connections that are kept; an answer other than 200 is an error."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._path = parts.path
        self._head = (
            f" HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: str, body: bytes = b"") -> bytes:
        """What is answered to a method and the path below the URL."""
        method, path = request.split(" ")
        reader, writer = (
            self._idle.pop() if self._idle else await asyncio.open_connection(*self._address, limit=1 << 22)
        )
        writer.writelines((f"{method} {self._path}{path}{self._head}{len(body)}\r\n\r\n".encode(), body))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        if head.split(b" ", 2)[1] != b"200":
            raise RuntimeError(f"{request} was answered {head.splitlines()[0].decode()}: {answer[:200]!r}")
        self._idle.append((reader, writer))
        return answer
