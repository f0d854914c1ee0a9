"""What is recorded of a finished document: its counts, its cost and one hash over all that search serves of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingestion_pipeline.domain import CheckResult, Chunk
from ingestion_pipeline.errors import IntegrityError

# OpenAI's price list, USD for a million tokens of synchronous requests.
PRICES_USD_A_MILLION = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13}


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished document. `cost_usd` is None where the model's price is not known; `content_sha256` is 32 bytes."""

    chunks: int
    tokens: int
    pages: int
    characters: int
    model: str
    cost_usd: float | None
    content_sha256: bytes


def cost_in_usd(model: str, tokens: int) -> float | None:
    """The price of embedding so many tokens, or None for a model that is not in the price list."""
    price = PRICES_USD_A_MILLION.get(model)
    return None if price is None else price * tokens / 1_000_000


def vector_hashes(vectors: NDArray[np.float32]) -> list[bytes]:
    """The SHA-256 of each row of shape (count, dimensions), over its little-endian float32 bytes."""
    little_endian = np.ascontiguousarray(vectors, dtype="<f4")
    return [hashlib.sha256(row.data).digest() for row in little_endian]


def content_hash(chunk_hashes: Sequence[bytes], vector_hashes: Sequence[bytes]) -> bytes:
    """SHA-256 over the hash of each chunk (32 bytes) followed by that of its vector (32 bytes), in the chunks' order.

    Raises IntegrityError unless there are as many of one as of the other, and each has 32 bytes.
    """
    if len(chunk_hashes) != len(vector_hashes):
        raise IntegrityError(f"There are {len(chunk_hashes):,} chunks, but {len(vector_hashes):,} vectors.")
    content = hashlib.sha256()
    for chunk_hash, vector_hash in zip(chunk_hashes, vector_hashes, strict=True):
        if len(chunk_hash) != content.digest_size or len(vector_hash) != content.digest_size:
            raise IntegrityError("A hash does not have 32 bytes.")
        content.update(chunk_hash)
        content.update(vector_hash)
    return content.digest()


def summarise(
    chunks: Sequence[Chunk], vector_hashes: Sequence[bytes], model: str, billed_tokens: int | None = None
) -> Summary:
    """The summary of a document's chunks and the hashes of their vectors, in any but the same order.

    The cost is that of `billed_tokens`, the vendor's count, where it is known (less than the chunks' own tokens if
    vectors were reused), else of the chunks' tokens. Raises IntegrityError as `content_hash`.
    """
    pairs = sorted(zip(chunks, vector_hashes, strict=False), key=lambda pair: pair[0].ordinal)
    if len(pairs) != max(len(chunks), len(vector_hashes)):
        raise IntegrityError(f"There are {len(chunks):,} chunks, but {len(vector_hashes):,} vectors.")
    tokens = sum(piece.token_count for piece in chunks)
    covered = characters = 0
    for piece, _ in pairs:
        characters += max(piece.end - max(piece.start, covered), 0)
        covered = max(covered, piece.end)
    return Summary(
        chunks=len(pairs),
        tokens=tokens,
        pages=len({page for piece in chunks for page in range(piece.first_page, piece.last_page + 1)}),
        characters=characters,
        model=model,
        cost_usd=cost_in_usd(model, tokens if billed_tokens is None else billed_tokens),
        content_sha256=content_hash([piece.sha256 for piece, _ in pairs], [digest for _, digest in pairs]),
    )


def check_counts(buffered_chunks: int, buffered_vectors: int, served: int) -> CheckResult:
    """Passes if there are chunks, each has its vector, and all are served."""
    passed = 0 < buffered_chunks == buffered_vectors == served
    message = (
        f"All {served:,} chunks are served."
        if passed
        else f"{buffered_chunks:,} chunks and {buffered_vectors:,} vectors were buffered, {served:,} are served."
    )
    facts: dict[str, int | float | str] = {
        "buffered_chunks": buffered_chunks,
        "buffered_vectors": buffered_vectors,
        "served": served,
    }
    return CheckResult("served_count_matches", passed, message, facts)


def check_content_hash(buffered: bytes, served: bytes) -> CheckResult:
    """Passes if what is served has the content hash (32 bytes) of what was buffered."""
    passed = buffered == served
    message = "What is served is what was buffered." if passed else "What is served is not what was buffered."
    return CheckResult("served_content_matches", passed, message, {"buffered": buffered.hex(), "served": served.hex()})
