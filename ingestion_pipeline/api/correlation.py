"""The outermost layer of each request: its correlation id, its one line in the log, and the answer to a defect."""

import json
import time
import traceback
from typing import Any
from uuid import UUID, uuid4

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion_pipeline.remedies import remedy_for

HEADER = "X-Correlation-ID"
TRACE_FRAMES = 20
_FIXED_HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
# Asked every few seconds by whoever watches: a line for each success would hide the others.
_QUIET_PATHS = frozenset({"/healthz", "/readyz"})

log = structlog.get_logger(__name__)


def correlation_id_of(request: Request) -> UUID:
    """The id under which everything that follows from this request can be found."""
    found: UUID = request.scope["state"]["correlation_id"]
    return found


class CorrelationMiddleware:
    """Takes the sender's X-Correlation-ID if it is a UUID, else makes one, and sends it back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        correlation_id = _given_id(scope) or uuid4()
        scope.setdefault("state", {})["correlation_id"] = correlation_id
        status: int | None = None
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(HEADER.lower().encode(), str(correlation_id).encode()), *_FIXED_HEADERS]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(correlation_id=str(correlation_id))
        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001  the last stop of a defect: it becomes a 500 and a line in the log
            _log_defect(error)
            if status is None:
                await _send_defect(send_with_id, correlation_id)
        finally:
            if scope["path"] not in _QUIET_PATHS or status != 200:
                # Without the query: it may be a user's text.
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round((time.perf_counter() - started) * 1000, 1),
                )


def _given_id(scope: Scope) -> UUID | None:
    for name, value in scope["headers"]:
        if name == HEADER.lower().encode():
            try:
                return UUID(value.decode("ascii"))
            except ValueError:
                return None
    return None


def _log_defect(error: Exception) -> None:
    # Without the message: those of drivers and parsers quote the data that they stumbled over.
    frames = traceback.format_tb(error.__traceback__)[-TRACE_FRAMES:]
    log.error("defect", error_type=type(error).__name__, trace="".join(frames), code="internal_error")


async def _send_defect(send: Send, correlation_id: UUID) -> None:
    """Written out by hand: nothing that may have failed is needed for it. The same fields as problems.Problem."""
    body: dict[str, Any] = {
        "type": "urn:ingestion:problem:internal_error",
        "title": "Internal error",
        "status": 500,
        "detail": "The request failed because of a defect.",
        "code": "internal_error",
        "remedy": remedy_for("internal_error"),
        "correlation_id": str(correlation_id),
    }
    await send(
        {"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"application/problem+json")]}
    )
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
