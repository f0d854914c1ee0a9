"""The vendor's error body, and the exception that carries one through the checks."""

from typing import Any

from starlette.responses import JSONResponse, Response

_DEFAULTS = {
    400: "Bad request",
    401: "Invalid API key",
    402: "Insufficient credits to complete this request",
    403: "You do not have access to this project",
    404: "Not found",
    408: "Request timeout",
    409: "Conflict",
    413: "File too large",
    429: "Rate limit exceeded",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}


class ApiError(Exception):
    """A request that the API refuses: an HTTP status and a detail."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail

    def response(self) -> Response:
        """The error as the vendor answers it."""
        return JSONResponse({"detail": self.detail}, self.status)


def scripted_error(status: int, code: str | None, message: str | None) -> Response:
    """A scripted HTTP error; a rate limit comes without `Retry-After` unless the fault has one."""
    detail = message or _DEFAULTS.get(status, "Error")
    return ApiError(status, f"{code}: {detail}" if code else detail).response()
