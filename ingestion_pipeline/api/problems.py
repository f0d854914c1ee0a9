"""Errors as problem details (RFC 9457): one table maps the errors of the domain and of requests to HTTP statuses."""

from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ingestion_pipeline import errors
from ingestion_pipeline.api import errors as request_errors
from ingestion_pipeline.api.correlation import correlation_id_of
from ingestion_pipeline.errors import IngestionError
from ingestion_pipeline.remedies import remedy_for

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5

# By class, the nearest ancestor counts.
STATUS_OF_ERROR: dict[type[IngestionError], int] = {
    request_errors.NotAuthenticatedError: 401,
    request_errors.MalformedRequestError: 400,
    request_errors.NotMultipartError: 415,
    request_errors.InvalidRequestError: 422,
    request_errors.BodyTooLargeError: 413,
    request_errors.RequestTimeoutError: 408,
    request_errors.ClientDisconnectedError: 400,
    errors.NotFoundError: 404,
    errors.NotRetryableError: 409,
    errors.NotCancellableError: 409,
    errors.InvalidDocumentError: 422,
    errors.UnsupportedTypeError: 415,
    errors.TooLargeError: 413,
    errors.VendorRejectedError: 502,
    errors.TransientError: 503,
    errors.IngestionError: 500,
}
# Codes that say more than their class.
STATUS_OF_CODE: dict[str, int] = {"bad_signature": 401, "stale_event": 400, "malformed_event": 400}

# Of what is not the caller's fault, they learn the kind; the reason is in the logs.
DETAIL_OF_CODE: dict[str, str] = {
    "database_unavailable": "The database is not available.",
    "store_unavailable": "The object store is not available.",
    "vendor_unavailable": "An outside service is not available.",
}
DETAIL_OF_STATUS: dict[int, str] = {
    500: "The request failed inside of the service. The logs have the reason under the correlation id.",
    502: "An outside service refused our request.",
    503: "Something that this service needs is not available.",
}
CODE_OF_STATUS: dict[int, str] = {404: "no_such_path", 405: "method_not_allowed"}

log = structlog.get_logger(__name__)


class FieldProblem(BaseModel):
    """One wrong parameter."""

    location: str = Field(description="Where it is, e.g. `query.limit`.")
    message: str = Field(description="What is wrong with it.")


class Problem(BaseModel):
    """Problem details as of RFC 9457."""

    type: str = Field(description="A URN of the code.", examples=["urn:ingestion:problem:not_found"])
    title: str = Field(description="The code in words, the same for each occurrence.", examples=["Not found"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str = Field(description="What happened this time.")
    code: str = Field(description="Stable, for programs.", examples=["not_found"])
    remedy: str = Field(description="What to do about it.")
    correlation_id: str = Field(description="Under which the logs and the history tell more.")
    errors: list[FieldProblem] | None = Field(
        default=None, description="The wrong parameters, code `invalid_request` only."
    )


def status_of(error: IngestionError) -> int:
    """The HTTP status of an error, by its code, else by the nearest class in the table."""
    if error.code in STATUS_OF_CODE:
        return STATUS_OF_CODE[error.code]
    return next(STATUS_OF_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_OF_ERROR)


def problem_response(
    request: Request,
    *,
    status: int,
    code: str,
    detail: str,
    headers: dict[str, str] | None = None,
    field_problems: list[FieldProblem] | None = None,
) -> JSONResponse:
    """A response of the media type application/problem+json."""
    problem = Problem(
        type=f"urn:ingestion:problem:{code}",
        title=code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        code=code,
        remedy=remedy_for(code),
        correlation_id=str(correlation_id_of(request)),
        errors=field_problems,
    )
    structlog.contextvars.bind_contextvars(code=code)
    return JSONResponse(
        problem.model_dump(exclude_none=True), status_code=status, headers=headers, media_type=MEDIA_TYPE
    )


async def response_to_error(request: Request, error: Exception) -> JSONResponse:
    """The response to an IngestionError."""
    assert isinstance(error, IngestionError)
    status = status_of(error)
    headers: dict[str, str] = {}
    detail = error.message
    if status >= 500:
        log.error("request failed", code=error.code, reason=error.message)
        detail = DETAIL_OF_CODE.get(error.code, DETAIL_OF_STATUS[status])
    if status == 503:
        headers["Retry-After"] = str(max(RETRY_AFTER_SECONDS, round(error.retry_after_seconds or 0)))
    if isinstance(error, request_errors.NotAuthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="ingestion"'
    return problem_response(request, status=status, code=error.code, detail=detail, headers=headers)


def install(app: FastAPI) -> None:
    """Make every error of the app a problem, the framework's own included."""
    app.add_exception_handler(IngestionError, response_to_error)
    app.add_exception_handler(HTTPException, _response_to_framework)
    app.add_exception_handler(RequestValidationError, _response_to_validation)


async def _response_to_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    return problem_response(
        request,
        status=error.status_code,
        code=CODE_OF_STATUS.get(error.status_code, phrase.lower().replace(" ", "_")),
        detail=f"{request.method} {request.url.path}: {phrase}.",
        headers=dict(error.headers or {}),
    )


async def _response_to_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Values stay out of the answer: they are the caller's, and may be long.
    problems = [
        FieldProblem(location=".".join(map(str, found["loc"])), message=str(found["msg"])) for found in error.errors()
    ]
    detail = "; ".join(f"{found.location}: {found.message}" for found in problems)
    return problem_response(request, status=422, code="invalid_request", detail=detail, field_problems=problems)
