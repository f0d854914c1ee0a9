"""One file out of a multipart/form-data body (RFC 7578), block by block, while the body arrives.

The form has exactly one part: `file`, with a file name. Neither form nor file is ever held whole, in memory or on disk.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from ingestion_pipeline.api.errors import (
    ClientDisconnectedError,
    InvalidRequestError,
    MalformedRequestError,
    NotMultipartError,
    RequestTimeoutError,
)
from ingestion_pipeline.errors import IngestionError, InvalidDocumentError

PART_NAME = "file"
# Boundaries, part headers and whatever else surrounds the file.
FRAMING_BYTES = 16 * 1024
_PLAIN_ENCODINGS = frozenset({b"", b"binary", b"8bit", b"7bit"})


@dataclass(frozen=True, slots=True)
class FilePart:
    """What the part's own headers say of the file, unchecked."""

    filename: str
    content_type: str | None


async def body_blocks(
    request: Request, *, limit_bytes: int, too_large: IngestionError, pause_seconds: float
) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises `too_large`, RequestTimeoutError, ClientDisconnectedError.

    A Content-Length over the limit is refused before the first byte is read.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise too_large
    size = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(pause_seconds):
                block = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise RequestTimeoutError(f"No byte of the body came for {pause_seconds:g} seconds.") from None
        except ClientDisconnect:
            raise ClientDisconnectedError("The sender went away before the end of the body.") from None
        size += len(block)
        if size > limit_bytes:
            raise too_large
        if block:
            yield block


class FileForm:
    """Reads the form: `await part()` for the file's headers, then `blocks()` for its content.

    Both raise MalformedRequestError for broken syntax, InvalidRequestError `missing_file`, `several_files` or
    `unexpected_part`, InvalidDocumentError `invalid_filename`, and whatever `body` raises.
    """

    def __init__(self, content_type: str | None, body: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            raise NotMultipartError("The body has to be multipart/form-data.")
        boundary = options.get(b"boundary")
        if not boundary:
            raise MalformedRequestError("The header Content-Type names no boundary.")
        self._body = body
        self._part: FilePart | None = None
        self._blocks: deque[bytes] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._is_ended = False
        with _syntax():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )

    async def part(self) -> FilePart:
        """The file's name and declared type."""
        while self._part is None and await self._read():
            pass
        if self._part is None:
            if not self._is_ended:
                raise MalformedRequestError("The form breaks off before its end.")
            raise InvalidRequestError(f"The form has no part `{PART_NAME}`.", code="missing_file")
        return self._part

    async def blocks(self) -> AsyncIterator[bytes]:
        """The file's content; the form is read to its end."""
        while True:
            while self._blocks:
                yield self._blocks.popleft()
            if not await self._read():
                break
        while self._blocks:
            yield self._blocks.popleft()
        if not self._is_ended:
            raise MalformedRequestError("The form breaks off before its end.")

    async def _read(self) -> bool:
        try:
            block = await anext(self._body)
        except StopAsyncIteration:
            return False
        if not self._is_ended:  # what follows the form is nobody's
            with _syntax():
                self._parser.write(block)
        return True

    def _on_part_begin(self) -> None:
        self._headers.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if disposition != b"form-data" or not name:
            raise MalformedRequestError("A part of the form has no name.")
        if name != PART_NAME:
            raise InvalidRequestError(
                f"The form has a part {name[:50]!r}: it may have `{PART_NAME}` only.", code="unexpected_part"
            )
        if self._part is not None:
            raise InvalidRequestError(f"The form has more than one part `{PART_NAME}`.", code="several_files")
        if self._headers.get(b"content-transfer-encoding", b"").strip().lower() not in _PLAIN_ENCODINGS:
            raise MalformedRequestError("A Content-Transfer-Encoding other than binary is not taken (RFC 7578, 4.7).")
        if b"filename" not in options:
            raise InvalidDocumentError(f"The part `{PART_NAME}` has no file name.", code="invalid_filename")
        try:
            filename = options[b"filename"].decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidDocumentError("The file name is not valid UTF-8.", code="invalid_filename") from None
        content_type = self._headers.get(b"content-type")
        self._part = FilePart(filename, content_type.decode("latin-1") if content_type else None)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._blocks.append(data[start:end])

    def _on_end(self) -> None:
        self._is_ended = True


@contextmanager
def _syntax() -> Iterator[None]:
    """Turn the parser's errors into MalformedRequestError."""
    try:
        yield
    except FormParserError as error:
        raise MalformedRequestError(f"The form is malformed: {error}.") from None
