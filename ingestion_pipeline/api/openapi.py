"""The API's description: every response of every operation, errors included, as problem details."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

DESCRIPTION = """
Documents in, searchable passages out. Upload a file, follow its state until it is `complete`, search.

Every error is a problem detail (RFC 9457) with a stable `code` and a `remedy`. Every answer carries `X-Correlation-ID`:
send a UUID of your own or take the one made for you; logs and the document's history carry it too.
"""
_PROBLEM_REFERENCE = {"$ref": "#/components/schemas/Problem"}
_MEANING: dict[int, str] = {
    400: "The request is malformed, too old, or broke off.",
    401: "The bearer key or the signature is missing or wrong.",
    404: "No such document of this owner.",
    408: "The body stopped coming.",
    409: "The document's state does not allow it.",
    413: "The body or the file is over the limit.",
    415: "The file, or the body, is of a type that is not taken.",
    422: "A parameter, the form or the file is not valid.",
    500: "A defect of the service.",
    502: "An outside service refused our request.",
    503: "The database, the object store or an outside service is not available; Retry-After says when to come back.",
}
_EXAMPLE_CODES: dict[int, tuple[str, str]] = {
    400: ("malformed_multipart", "The form breaks off before its end."),
    401: ("not_authenticated", "The bearer key is not valid."),
    404: ("not_found", "There is no document 3f0a9c1e-6f0d-5b55-9a3e-1c2d7f6f4b10."),
    408: ("request_timeout", "No byte of the body came for 30 seconds."),
    409: ("not_retryable", "The document 3f0a9c1e-6f0d-5b55-9a3e-1c2d7f6f4b10 is complete: there is nothing to retry."),
    413: ("too_large", "'report.pdf' is larger than the limit of 104,857,600 bytes."),
    415: ("content_mismatch", "'report.pdf' is declared as PDF, but it is a PNG image."),
    422: ("invalid_filename", "The file name has a path separator."),
    500: ("internal_error", "The request failed because of a defect."),
    502: ("vendor_rejected", "An outside service refused our request."),
    503: ("database_unavailable", "The database is not available."),
}
_CORRELATION_HEADER = {
    "description": "Under which the logs and the history tell more.",
    "schema": {"type": "string", "format": "uuid"},
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for the statuses that it answers with a problem; 500 is always one of them."""
    return {status: {"description": _MEANING[status], "x-problem": True} for status in (*statuses, 500)}


def describe(app: FastAPI, *, problem_schema: dict[str, Any], media_type: str) -> Callable[[], dict[str, Any]]:
    """The function behind /openapi.json: FastAPI's description, made complete."""
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            described = get_openapi(
                title=app.title,
                version=app.version,
                description=DESCRIPTION.strip(),
                routes=app.routes,
                tags=app.openapi_tags,
            )
            definitions = problem_schema.get("$defs", {})
            schemas = described.setdefault("components", {}).setdefault("schemas", {})
            schemas |= {
                **definitions,
                "Problem": {key: value for key, value in problem_schema.items() if key != "$defs"},
            }
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for path in described["paths"].values():
                for operation in path.values():
                    _complete(operation["responses"], media_type)
            made.update(described)
        return made

    return openapi


def _complete(responses: dict[str, dict[str, Any]], media_type: str) -> None:
    if "x-problem" not in responses.get("422", {}):
        responses.pop("422", None)  # the framework's default, for parameters that are never refused
    responses.setdefault("500", problems()[500])
    for status, response in responses.items():
        headers = response.setdefault("headers", {})
        headers["X-Correlation-ID"] = _CORRELATION_HEADER
        if not response.pop("x-problem", False):
            continue
        response["content"] = {media_type: {"schema": _PROBLEM_REFERENCE, "example": _example(int(status))}}
        if status == "401":
            headers["WWW-Authenticate"] = {
                "description": "`Bearer`, where a key is asked for.",
                "schema": {"type": "string"},
            }
        if status == "503":
            headers["Retry-After"] = {"description": "Seconds.", "schema": {"type": "integer"}}


def _example(status: int) -> dict[str, Any]:
    code, detail = _EXAMPLE_CODES.get(status, ("invalid_request", HTTPStatus(status).phrase))
    return {
        "type": f"urn:ingestion:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        "remedy": "What to do about it.",
        "correlation_id": "8d5f7f0e-5f1c-4c8e-9a60-0f1f2b7d9a11",
    }
