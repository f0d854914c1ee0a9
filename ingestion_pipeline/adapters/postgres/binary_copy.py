"""Rows in PostgreSQL's binary COPY format, from Python values and numpy rows: no float ever becomes text.

Source of the format: PostgreSQL documentation, COPY, "Binary Format"; of vectors: pgvector's halfvec_recv and
vector_recv.
"""

import io
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ingestion_pipeline.domain import Chunk, Document, Precision
from ingestion_pipeline.ports import PendingText

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
_TEXT_OID = 25
_UUID = struct.Struct(">i16s").pack
_INTEGER = struct.Struct(">ii").pack
_NUMBERS = {Precision.HALF: ">f2", Precision.FULL: ">f4"}
_LENGTH = struct.Struct(">i").pack


def _field(data: bytes) -> bytes:
    return _LENGTH(len(data)) + data


def _text_array(values: Sequence[str]) -> bytes:
    if not values:
        return _field(struct.pack(">iii", 0, 0, _TEXT_OID))
    head = struct.pack(">iiiii", 1, 0, _TEXT_OID, len(values), 1)
    return _field(head + b"".join(_field(value.encode()) for value in values))


def chunk_rows(document: Document, chunks: Sequence[Chunk]) -> io.BytesIO:
    """Rows of document_chunk_buffer: chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, first_page,
    last_page, heading_path, token_count, chunk_sha256, text."""
    owner = _UUID(16, document.document_id.bytes) + _UUID(16, document.owner_id.bytes)
    count = struct.pack(">h", 12)
    parts = [_HEADER]
    for chunk in chunks:
        parts += (
            count,
            _UUID(16, chunk.chunk_id.bytes),
            owner,
            _INTEGER(4, chunk.ordinal),
            _INTEGER(4, chunk.start),
            _INTEGER(4, chunk.end),
            _INTEGER(4, chunk.first_page),
            _INTEGER(4, chunk.last_page),
            _text_array(chunk.heading_path),
            _INTEGER(4, chunk.token_count),
            _field(chunk.sha256),
            _field(chunk.text.encode()),
        )
    parts.append(_TRAILER)
    return io.BytesIO(b"".join(parts))


def vector_rows(
    texts: Sequence[PendingText], vectors: NDArray[np.float32], model: str, precision: Precision
) -> io.BytesIO:
    """Rows of the vector buffer: chunk_id, document_id, owner_id, model, chunk_sha256, embedding (halfvec or vector).

    `vectors` has the shape (texts, dimensions).
    """
    numbers = np.ascontiguousarray(vectors, dtype=_NUMBERS[precision])
    row_bytes = numbers.shape[1] * numbers.itemsize
    rows = numbers.view(np.uint8).reshape(len(vectors), row_bytes)
    vector_head = struct.pack(">ihH", 4 + row_bytes, numbers.shape[1], 0)
    count = struct.pack(">h", 6)
    model_field = _field(model.encode())
    parts = [_HEADER]
    for text, row in zip(texts, rows, strict=True):
        parts += (
            count,
            _UUID(16, text.chunk_id.bytes),
            _UUID(16, text.document_id.bytes),
            _UUID(16, text.owner_id.bytes),
            model_field,
            _field(text.chunk_sha256),
            vector_head,
            row.tobytes(),
        )
    parts.append(_TRAILER)
    return io.BytesIO(b"".join(parts))
