"""The vendor's error object, and the exception that carries one through the checks."""

from starlette.responses import JSONResponse, Response

_DEFAULTS: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request is invalid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("invalid_request_error", None, "You are not allowed to use this resource."),
    404: ("invalid_request_error", None, "The resource does not exist."),
    408: ("server_error", None, "The request timed out."),
    409: ("conflict", None, "The resource was changed by another request."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests. Please try again later."),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
}
_QUOTA = "You exceeded your current quota, please check your plan and billing details."


class ApiError(Exception):
    """A request that the API refuses, as an HTTP status and an error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        error_type: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": error_type, "param": param, "code": code}}

    def response(self) -> Response:
        """The error as the vendor answers it."""
        return JSONResponse(self.body, self.status)


def scripted_error(status: int, code: str | None, message: str | None) -> Response:
    """A scripted HTTP error; `insufficient_quota` has its own type and message."""
    server_error: tuple[str, str | None, str] = ("server_error", None, "The server had an error, please retry.")
    error_type, default_code, default_message = _DEFAULTS.get(status, server_error)
    if code == "insufficient_quota":
        error_type, default_message = "insufficient_quota", _QUOTA
    error = ApiError(status, message or default_message, code=code or default_code, error_type=error_type)
    return error.response()
