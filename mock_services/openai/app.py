"""The OpenAI application: authentication, the embeddings endpoint, its scripted faults."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from pydantic_core import from_json, to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mock_services.calls import CallCounter
from mock_services.control import control_routes
from mock_services.exchange import Exchange
from mock_services.faults import Fault, FaultBook, Kind, Stage
from mock_services.openai.errors import ApiError, scripted_error
from mock_services.openai.inputs import EmbeddingRequest, EstimatingTokenizer, Tokenizer, read_request
from mock_services.openai.rate_limits import RateLimits
from mock_services.openai.vectors import Vector, VectorKind, VectorSource, encode, make_vector_source

OPERATION = "create_embeddings"
_FIRST = b'{"object":"embedding","index":0,"embedding":'
Result = TypeVar("Result")


@dataclass(frozen=True)
class OpenAIOptions:
    """vectors: meaningful or instant; the limits a minute are shown in headers, and enforced only if told to."""

    vectors: VectorKind = "meaningful"
    estimate_tokens: bool = False
    requests_a_minute: int = 10_000
    tokens_a_minute: int = 10_000_000
    enforce_rate_limits: bool = False


def create_openai_app(options: OpenAIOptions) -> Starlette:
    """The application, its tables and weights loaded."""
    faults, calls = FaultBook(), CallCounter()
    embeddings = Embeddings(
        EstimatingTokenizer() if options.estimate_tokens else Tokenizer(),
        make_vector_source(options.vectors),
        RateLimits(options.requests_a_minute, options.tokens_a_minute, enforced=options.enforce_rate_limits),
        Exchange(faults, calls, scripted_error),
    )
    routes = [Route("/v1/embeddings", embeddings.create, methods=["POST"]), *control_routes(faults, calls)]
    return Starlette(routes=routes, exception_handlers={404: _unknown_url})


async def _unknown_url(request: Request, _: Exception) -> Response:
    return ApiError(404, f"Invalid URL ({request.method} {request.url.path})").response()


class Embeddings:
    """`POST /v1/embeddings`."""

    def __init__(self, tokenizer: Tokenizer, source: VectorSource, limits: RateLimits, exchange: Exchange) -> None:
        self._tokenizer = tokenizer
        self._source = source
        self._limits = limits
        self._exchange = exchange
        # the tables are native code or numpy; two threads keep the event loop answering meanwhile
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="embeddings")

    async def create(self, request: Request) -> Response:
        """Check the key and the body, then answer through the scripted faults."""
        started = time.perf_counter()
        try:
            check_key(request.headers.get("authorization"))
            body = await request.body()
            embedding_request = await self._in_thread(self._read, body)
        except ApiError as error:
            with self._exchange.calls.in_flight(OPERATION) as count:
                count.statuses[str(error.status)] += 1
            return error.response()

        async def work() -> Response:
            return await self._answer(embedding_request, started)

        return await self._exchange.run(OPERATION, embedding_request.texts, work)

    async def _answer(self, request: EmbeddingRequest, started: float) -> Response:
        try:
            headers = self._limits.take(request.tokens)
        except ApiError as error:
            response = error.response()
            response.headers.update(self._limits.headers())
            return response
        faults = self._exchange.faults.take(Stage.VECTORS, OPERATION, request.texts)
        body, digests = await self._in_thread(self._render, request, faults[0] if faults else None)
        self._exchange.calls.add_inputs(digests, request.tokens)
        headers |= {
            "openai-model": request.model,
            "openai-version": "2020-10-01",
            "openai-processing-ms": str(round((time.perf_counter() - started) * 1000)),
            "x-request-id": f"req_{uuid4().hex}",
        }
        return Response(body, media_type="application/json", headers=headers)

    def _read(self, body: bytes) -> EmbeddingRequest:
        try:
            decoded = from_json(body)
        except ValueError as error:
            raise ApiError(400, "We could not parse the JSON body of your request.") from error
        return read_request(decoded, self._tokenizer)

    def _render(self, request: EmbeddingRequest, fault: Fault | None) -> tuple[bytes, list[bytes]]:
        digests = [_digest(text) for text in request.texts]
        if fault is None and request.base64:
            # base64 needs no escaping, so the body is joined and not serialised: the cost is a memory copy
            encoded = self._source.base64(request.texts, request.model, request.dimensions)
            return _body([b'"' + text + b'"' for text in encoded], request), digests
        vectors = self._source.vectors(request.texts, request.model, request.dimensions)
        if fault is not None:
            vectors = spoiled(vectors, fault)
        return _body([_value(vector, base64=request.base64) for vector in vectors], request), digests

    async def _in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def check_key(authorization: str | None) -> None:
    """Accept any bearer key that looks like the vendor's; ApiError 401 otherwise."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise ApiError(401, "You didn't provide an API key in an Authorization header using Bearer auth.")
    if not key.startswith("sk-"):
        raise ApiError(401, f"Incorrect API key provided: {key[:4]}***.", code="invalid_api_key")


def spoiled(vectors: list[Vector], fault: Fault) -> list[Vector]:
    """The vectors as a scripted fault returns them."""
    if fault.kind is Kind.WRONG_COUNT:
        count = len(vectors) - 1 if fault.count is None else fault.count
        return (vectors * (count // len(vectors) + 1))[:count]
    if fault.kind is Kind.WRONG_DIMENSION:
        return [np.resize(vector, fault.dimensions or vector.size - 1) for vector in vectors]
    return [np.full_like(vector, np.nan) for vector in vectors]


def _value(vector: Vector, *, base64: bool) -> bytes:
    return b'"' + encode(vector) + b'"' if base64 else to_json(vector.tolist(), inf_nan_mode="constants")


def _body(values: list[bytes], request: EmbeddingRequest) -> bytes:
    parts = [b'{"object":"list","data":[']
    for index, value in enumerate(values):
        parts.append(b',{"object":"embedding","index":%d,"embedding":' % index if index else _FIRST)
        parts.append(value)
        parts.append(b"}")
    usage = {"prompt_tokens": request.tokens, "total_tokens": request.tokens}
    parts.append(b'],"model":' + to_json(request.model) + b',"usage":' + to_json(usage) + b"}")
    return b"".join(parts)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
