"""Embeddings through the `openai` SDK, decoded from base64 straight into one float32 array.

The SDK decodes base64 too, but into a list of Python floats for each text, and its way of making the body of a request
takes several times as long: its client is used with bodies that are made and read here. It takes 0.6 s to import, so it
is imported when an OpenAIEmbedder is made.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pybase64
import structlog
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from ingestion_pipeline.adapters.vendor_answers import check_client_settings, quoted, retry_after_seconds
from ingestion_pipeline.adapters.vendor_connections import tls_context
from ingestion_pipeline.errors import (
    IngestionError,
    RequestRejectedError,
    VendorRejectedError,
    VendorUnavailableError,
)
from ingestion_pipeline.ports import Embeddings

# Codes of the vendor that say more than the HTTP status: permanent though a 429, and about one request.
_ACCOUNT_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_CONTENT_CODES = {"context_length_exceeded", "max_tokens_per_request", "array_above_max_length"}
# HTTP status -> class and code; other 4xx are vendor_rejected. 408, 409, 429 and 5xx are transient.
_REFUSALS: dict[int, tuple[type[VendorRejectedError], str]] = {
    400: (RequestRejectedError, "request_rejected"),
    401: (VendorRejectedError, "invalid_api_key"),
    403: (VendorRejectedError, "vendor_rejected"),
    404: (VendorRejectedError, "model_not_found"),
    413: (RequestRejectedError, "request_rejected"),
    422: (RequestRejectedError, "request_rejected"),
}
# An answer has megabytes, which the SDK's connections would read by 64 KiB, each time behind all other threads.
READ_BYTES = 1 << 20
_NOT_QUOTED = {401, 403}  # these answers repeat a part of the key


class OpenAIEmbedder:
    """ports.Embedder; safe to use from threads, over one pool of connections. The SDK's own retries are off."""

    def __init__(self, api_key: str, base_url: str, model: str, dimensions: int, timeout_seconds: float = 60.0) -> None:
        import httpcore2
        import httpx2
        import openai

        check_client_settings("OpenAI", base_url, api_key)
        httpcore2.HTTP11Connection.READ_NUM_BYTES = READ_BYTES
        self._sdk = openai
        self._api_key = api_key
        self._model = model
        self._dimensions = dimensions
        timeout = httpx2.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds))
        connections = openai.DefaultHttpxClient(verify=tls_context())
        client = openai.OpenAI(
            api_key=api_key, base_url=base_url, timeout=timeout, max_retries=0, http_client=connections
        )
        self._client = client
        self._answer_type = httpx2.Response

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    @property
    def dimensions(self) -> int:
        """The length of every vector."""
        return self._dimensions

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """One request for all texts; none for no texts."""
        if not texts:
            return Embeddings(np.empty((0, self._dimensions), np.float32), 0)
        body = {
            "model": self._model,
            "input": texts,
            "dimensions": self._dimensions,
            "encoding_format": "base64",
        }
        started = time.perf_counter()
        try:
            answer = self._client.post(
                "/embeddings",
                cast_to=self._answer_type,
                content=to_json(body),
                options={"headers": _named_call(), "security": {"bearer_auth": True}},
            )
        except self._sdk.APIStatusError as error:
            raise self._refusal(error.status_code, error.code, error.type, error) from error
        except self._sdk.APITimeoutError as error:
            raise VendorUnavailableError("OpenAI did not answer in time") from error
        except self._sdk.APIConnectionError as error:
            raise VendorUnavailableError("OpenAI can't be reached, or the connection broke") from error
        seconds = time.perf_counter() - started
        return replace(read_embeddings(answer.content, len(texts), self._dimensions), seconds=seconds)

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()

    def _refusal(self, status: int, code: str | None, kind: str | None, error: Any) -> IngestionError:
        said = "" if status in _NOT_QUOTED else f": {quoted(error.message, self._api_key)}"
        message = f"OpenAI answers {status}{said}"
        if account := _ACCOUNT_CODES & {code, kind}:
            return VendorRejectedError(message, code=account.pop())
        if status in (408, 409, 429) or status >= 500:
            wait = retry_after_seconds(error.response.headers)
            ours = "rate_limited" if status == 429 else None
            return VendorUnavailableError(message, code=ours, retry_after_seconds=wait)
        refused, ours = _REFUSALS.get(status, (VendorRejectedError, "vendor_rejected"))
        return refused(message, code=code if code in _CONTENT_CODES else ours)


def read_embeddings(body: bytes, count: int, dimensions: int) -> Embeddings:
    """The vectors of an answer, checked, in the order of their index.

    Vectors are little-endian float32 in base64, or lists of numbers from services that know no base64.
    Raises VendorUnavailableError (malformed_response), with the tokens that the answer bills, unless there are `count`
    finite vectors of `dimensions`.
    """
    tokens = 0
    try:
        try:
            answer = from_json(body)
            tokens = _count(answer["usage"]["total_tokens"])
            return Embeddings(_read_vectors(answer["data"], count, dimensions), tokens)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise _malformed("what is not an embeddings response") from error
    except VendorUnavailableError as error:
        error.billed_tokens = tokens
        raise


def _named_call() -> dict[str, str]:
    """The id of the call in the ledger and the log, by which OpenAI finds it in its own."""
    call_id = structlog.contextvars.get_contextvars().get("call_id")
    return {"X-Client-Request-Id": call_id} if call_id else {}


def _count(tokens: Any) -> int:
    if type(tokens) is not int or tokens < 0:
        raise _malformed("no count of tokens")
    return tokens


def _read_vectors(items: Any, count: int, dimensions: int) -> NDArray[np.float32]:
    vectors = np.empty((count, dimensions), np.float32)  # each row is written below, or it is an error
    if len(items) != count:
        raise _malformed(f"{len(items)} vectors for {count} texts")
    seen = set()
    for item in items:
        index = item["index"]
        if type(index) is not int or not 0 <= index < count or index in seen:
            raise _malformed("vectors whose indices are not those of the texts")
        seen.add(index)
        vector = _vector(item["embedding"])
        if vector.shape != (dimensions,):
            raise _malformed(f"a vector of {vector.size} dimensions instead of {dimensions}")
        vectors[index] = vector
    if not np.isfinite(vectors).all():
        raise _malformed("vectors with numbers that are not finite")
    return vectors


def _vector(embedding: Any) -> NDArray[np.floating[Any]]:
    if isinstance(embedding, str):
        return np.frombuffer(pybase64.b64decode_as_bytearray(embedding, validate=True), "<f4")
    return np.asarray(embedding, np.float32)


def _malformed(what: str) -> VendorUnavailableError:
    return VendorUnavailableError(f"OpenAI answered {what}", code="malformed_response")
