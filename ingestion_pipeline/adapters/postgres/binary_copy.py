"""Rows in PostgreSQL's binary COPY format, from Python values and numpy rows: no float ever becomes text.

Source of the format: PostgreSQL documentation, COPY, "Binary Format"; of vectors: pgvector's halfvec_recv and
vector_recv.
"""

import io
import struct
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ingestion_pipeline.domain import Chunk, Document, Precision, sha256_of_bytes
from ingestion_pipeline.ports import ChunkResult, PendingText

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
_TEXT_OID = 25
_NUMBERS = {Precision.HALF: ">f2", Precision.FULL: ">f4"}
_CHUNK_HEAD = struct.Struct(">h" + "i16s" * 3 + "ii" * 5).pack
_CHUNK_TAIL = struct.Struct(">iii").pack
_VECTOR_HEAD = struct.Struct(">h" + "i16s" * 3).pack
_LENGTH = struct.Struct(">i").pack


def _field(data: bytes) -> bytes:
    return _LENGTH(len(data)) + data


def _text_array(values: Sequence[str]) -> bytes:
    if not values:
        return _field(struct.pack(">iii", 0, 0, _TEXT_OID))
    head = struct.pack(">iiiii", 1, 0, _TEXT_OID, len(values), 1)
    return _field(head + b"".join(_field(value.encode()) for value in values))


class RowStream(io.BufferedIOBase):
    """Rows as the file that COPY reads, made as they are read: memory is that of one block, whatever the number."""

    def __init__(self, rows: Iterator[bytes]) -> None:
        self._rows = rows
        self._parts = [_HEADER]
        self._size = len(_HEADER)
        self._is_over = False

    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes (None or less than 0: all), fewer at the end, none behind it."""
        wanted = sys.maxsize if size is None or size < 0 else size
        while self._size < wanted and not self._is_over:
            row = next(self._rows, None)
            if row is None:
                row, self._is_over = _TRAILER, True
            self._parts.append(row)
            self._size += len(row)
        block = b"".join(self._parts)
        self._parts = [block[wanted:]]
        self._size = len(self._parts[0])
        return block[:wanted]


def chunk_rows(results: Sequence[ChunkResult]) -> RowStream:
    """Rows of document_chunk_buffer: chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, first_page,
    last_page, heading_path, token_count, chunk_sha256, text."""
    return RowStream(_chunk_row(result.document, chunk) for result in results for chunk in result.chunks)


def _chunk_row(document: Document, chunk: Chunk) -> bytes:
    text = chunk.text.encode()
    return b"".join(
        (
            _CHUNK_HEAD(
                *(12, 16, chunk.chunk_id.bytes, 16, document.document_id.bytes, 16, document.owner_id.bytes),
                *(4, chunk.ordinal, 4, chunk.start, 4, chunk.end, 4, chunk.first_page, 4, chunk.last_page),
            ),
            _text_array(chunk.heading_path),
            _CHUNK_TAIL(4, chunk.token_count, len(chunk.sha256)),
            chunk.sha256,
            _LENGTH(len(text)),
            text,
        )
    )


def vector_rows(
    texts: Sequence[PendingText], vectors: NDArray[np.float32], model: str, precision: Precision
) -> RowStream:
    """Rows of document_vectors: chunk_id, document_id, owner_id, model, chunk_sha256, vector_sha256, embedding.

    `vectors` has the shape (texts, dimensions). Raises ValueError if it has not.
    """
    if len(texts) != len(vectors):
        raise ValueError(f"{len(vectors)} vectors for {len(texts)} texts")
    numbers = np.ascontiguousarray(vectors, dtype=_NUMBERS[precision])
    row_bytes = numbers.shape[1] * numbers.itemsize
    rows = numbers.view(np.uint8).reshape(len(vectors), row_bytes)
    head = struct.pack(">hH", numbers.shape[1], 0)
    length = _LENGTH(len(head) + row_bytes)
    model_field = _field(model.encode())

    def row(text: PendingText, vector: bytes) -> bytes:
        return b"".join(
            (
                _VECTOR_HEAD(7, 16, text.chunk_id.bytes, 16, text.document_id.bytes, 16, text.owner_id.bytes),
                model_field,
                _field(text.chunk_sha256),
                _field(sha256_of_bytes(vector)),
                length,
                vector,
            )
        )

    return RowStream(row(text, head + vector.tobytes()) for text, vector in zip(texts, rows, strict=True))
