"""Which texts go into which embedding request, and whether the vectors that come back can be stored.

The limits of a request are OpenAI's: 2,048 inputs, 8,192 tokens each, 300,000 tokens in all, none empty.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ingestion_pipeline.domain import CheckResult
from ingestion_pipeline.errors import IntegrityError, VendorUnavailableError
from ingestion_pipeline.ports import VectorFacts

REQUEST_INPUTS = 2048
REQUEST_TOKENS_EACH = 8192
REQUEST_TOKENS_TOTAL = 300_000

# Far below the limit: smaller requests are answered sooner, keep several connections busy, and less is lost with one.
PRACTICAL_INPUTS = 384

# Vectors of text-embedding-3 have length 1. In float32 over 3,072 dimensions rounding moves it by less than 1e-6, in
# halfvec by less than 1e-3; a hundredth leaves room for models that round more and still finds unscaled vectors.
UNIT_LENGTH_TOLERANCE = 0.01


class EmbeddingInput(Protocol):
    """A text to embed: its tokens as counted at chunking, and the SHA-256 (32 bytes) by which equal texts are known."""

    @property
    def text(self) -> str: ...

    @property
    def token_count(self) -> int: ...

    @property
    def chunk_sha256(self) -> bytes: ...


Item = TypeVar("Item", bound=EmbeddingInput)


def plan_batches(
    items: Iterable[Item],
    max_inputs: int = PRACTICAL_INPUTS,
    max_tokens_each: int = REQUEST_TOKENS_EACH,
    max_tokens_total: int = REQUEST_TOKENS_TOTAL,
    identity: Callable[[Item], Hashable] = lambda item: item.chunk_sha256,
) -> list[list[Item]]:
    """The requests to make, in the order of the items; of items of one identity only the first is sent.

    Raises IntegrityError for a text that no request may hold: blank, or without or over its number of tokens. Raises
    ValueError for limits that are not positive, or above those of a request.
    """
    _require("max_inputs", max_inputs, REQUEST_INPUTS)
    _require("max_tokens_each", max_tokens_each, REQUEST_TOKENS_EACH)
    _require("max_tokens_total", max_tokens_total, REQUEST_TOKENS_TOTAL)
    largest = min(max_tokens_each, max_tokens_total)
    batches: list[list[Item]] = []
    seen: set[Hashable] = set()
    tokens = 0
    for item in items:
        if not 0 < item.token_count <= largest or not item.text or item.text.isspace():
            raise IntegrityError(f"A text of {item.token_count:,} tokens can't be sent: 1 to {largest:,} are allowed.")
        known = identity(item)
        if known in seen:
            continue
        seen.add(known)
        if not batches or len(batches[-1]) == max_inputs or tokens + item.token_count > max_tokens_total:
            batches.append([])
            tokens = 0
        batches[-1].append(item)
        tokens += item.token_count
    return batches


def _require(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name} is {value}, not from 1 to {most}")


def check_vectors(vectors: NDArray[np.float32], count: int, dimensions: int) -> CheckResult:
    """Passes if the vectors have shape (count, dimensions), finite numbers and length 1 within a hundredth."""
    facts: dict[str, int | float | str] = {"expected": count, "dimensions": dimensions, "shape": str(vectors.shape)}
    problem = ""
    if vectors.shape != (count, dimensions):
        problem = f"The vectors have the shape {vectors.shape}, not ({count}, {dimensions})."
    elif count:
        # einsum needs no second array of the size of the vectors. One NaN or infinity makes its whole sum not finite.
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        infinite = int(np.count_nonzero(~np.isfinite(lengths)))
        zeros = int(np.count_nonzero(lengths == 0))
        abnormal = int(np.count_nonzero(~(np.abs(lengths - 1) <= UNIT_LENGTH_TOLERANCE))) - infinite - zeros
        facts |= {"not_finite": infinite, "zeros": zeros, "not_of_unit_length": abnormal}
        if infinite or zeros or abnormal:
            problem = (
                f"Of {count:,} vectors {infinite:,} are not finite, {zeros:,} are zero "
                f"and {abnormal:,} are not of length 1."
            )
    return CheckResult("vectors_valid", not problem, problem or "The vectors are complete and of length 1.", facts)


def validate_vectors(vectors: NDArray[np.float32], count: int, dimensions: int) -> None:
    """Raise VendorUnavailableError `malformed_response` unless `check_vectors` passes: they must not be stored."""
    result = check_vectors(vectors, count, dimensions)
    if not result.passed:
        raise VendorUnavailableError(result.message, code="malformed_response")


def check_vectors_complete(facts: VectorFacts, dimensions: int) -> CheckResult:
    """Blocking check: each chunk has one vector of its own text, of unit length and of the right dimension."""
    problems = []
    if facts.chunks == 0:
        problems.append("there are no chunks")
    if facts.vectors != facts.chunks:
        problems.append(f"{facts.chunks - facts.vectors} of {facts.chunks} chunks have no vector")
    if facts.abnormal_vectors:
        problems.append(f"{facts.abnormal_vectors} vectors are not of unit length")
    if facts.vectors and (facts.least_dimensions, facts.most_dimensions) != (dimensions, dimensions):
        problems.append(f"dimensions are {facts.least_dimensions} to {facts.most_dimensions}, not {dimensions}")
    return CheckResult(
        name="vectors_are_complete",
        passed=not problems,
        message="; ".join(problems) or "every chunk has its vector",
        facts={"chunks": facts.chunks, "vectors": facts.vectors},
    )
