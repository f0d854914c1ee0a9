"""One HTTP exchange with its scripted faults: latency, errors, held, cut, malformed and truncated answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mock_services.calls import CallCounter
from mock_services.faults import Fault, FaultBook, Kind, Stage

# The server's protocol puts the transport of the connection here: cutting it is beyond what ASGI offers.
TRANSPORT_KEY = "mock_services.transport"


class ErrorResponder(Protocol):
    """Renders an HTTP error as the vendor does."""

    def __call__(self, status: int, code: str | None, message: str | None) -> Response: ...


class HeldResponse(Response):
    """Never answers: holds the connection until the caller gives up, or for `seconds` and then cuts it."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__(status_code=499)
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI
        """Wait for the caller to hang up."""
        try:
            await asyncio.wait_for(_hung_up(receive), self._seconds)
        except TimeoutError:
            await _cut(scope, receive)


class CutResponse(Response):
    """Cuts the connection without a byte of answer."""

    def __init__(self) -> None:
        super().__init__(status_code=499)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI
        """Abort the transport."""
        await _cut(scope, receive)


class TruncatedResponse(Response):
    """Promises the whole body, sends half of it and cuts the connection."""

    def __init__(self, whole: Response) -> None:
        super().__init__(content=bytes(whole.body), status_code=whole.status_code)
        self.raw_headers = list(whole.raw_headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send half, then cut."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True})
        scope[TRANSPORT_KEY].close()  # what was sent is still delivered
        await _hung_up(receive)


async def _cut(scope: Scope, receive: Receive) -> None:
    scope[TRANSPORT_KEY].abort()
    await _hung_up(receive)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _malformed(response: Response) -> Response:
    half = bytes(response.body)[: len(bytes(response.body)) // 2]
    headers: Mapping[str, str] = {k: v for k, v in response.headers.items() if k.lower() != "content-length"}
    return Response(half + b'{"', status_code=response.status_code, headers=headers)


class Exchange:
    """Runs the operations of one application through its fault book and its counters."""

    def __init__(self, faults: FaultBook, calls: CallCounter, error: ErrorResponder) -> None:
        self.faults = faults
        self.calls = calls
        self.error = error

    async def run(self, operation: str, subjects: list[str], work: Callable[[], Awaitable[Response]]) -> Response:
        """Answer a call: `work` gives the true answer, the faults scripted for its subjects delay or spoil it."""
        with self.calls.in_flight(operation) as count:
            response = await self._answer(self.faults.take(Stage.HTTP, operation, subjects), work)
            count.statuses[str(response.status_code)] += 1
            return response

    async def _answer(self, faults: list[Fault], work: Callable[[], Awaitable[Response]]) -> Response:
        outcome: Fault | None = None
        for fault in faults:
            if fault.kind is Kind.LATENCY:
                await asyncio.sleep(fault.seconds or 0)
            else:
                outcome = fault
        if outcome is None:
            return await work()
        spoils_only = outcome.kind in (Kind.MALFORMED_BODY, Kind.TRUNCATED_BODY) or outcome.when == "after"
        answer = await work() if spoils_only else Response()
        match outcome.kind:
            case Kind.TIMEOUT:
                return HeldResponse(outcome.seconds)
            case Kind.CUT:
                return CutResponse()
            case Kind.MALFORMED_BODY:
                return _malformed(answer)
            case Kind.TRUNCATED_BODY:
                return TruncatedResponse(answer)
        error = self.error(outcome.status or 500, outcome.code, outcome.message)
        if outcome.retry_after is not None:
            error.headers["retry-after"] = f"{outcome.retry_after:g}"
        return error
