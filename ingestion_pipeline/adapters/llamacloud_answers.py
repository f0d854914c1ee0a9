"""LlamaParse's answers, read and classified: jobs, pages, HTTP errors and the failures of jobs. Pure functions.

The SDK does not validate what it is sent, so every field that counts is checked here.
"""

import re
from typing import Any

from ingestion_pipeline.adapters.vendor_answers import quoted
from ingestion_pipeline.domain import ParsedPage, ParseJob, ParseOutcome
from ingestion_pipeline.errors import (
    IngestionError,
    InvalidDocumentError,
    PermanentError,
    RequestRejectedError,
    VendorRejectedError,
    VendorUnavailableError,
)

_OUTCOME_OF_STATUS = {
    "PENDING": None,
    "RUNNING": None,
    "COMPLETED": ParseOutcome.SUCCESS,
    "FAILED": ParseOutcome.ERROR,
    "CANCELLED": ParseOutcome.CANCELLED,
}
# HTTP status -> class, code, what it means for us. Other 4xx are parser_rejected; 408, 429 and 5xx are transient.
_REFUSALS: dict[int, tuple[type[VendorRejectedError], str, str]] = {
    400: (RequestRejectedError, "parser_bad_request", "it refused the request"),
    401: (VendorRejectedError, "parser_unauthorised", "it refused the API key: is it valid, and of this region?"),
    402: (VendorRejectedError, "parser_no_credit", "the account has no credit left"),
    403: (VendorRejectedError, "parser_forbidden", "the API key may not use this project"),
    404: (VendorRejectedError, "parser_not_found", "it does not know this address: is the base URL right?"),
    413: (RequestRejectedError, "parser_too_large", "the file is larger than it takes"),
    422: (RequestRejectedError, "parser_unprocessable", "it does not understand the request"),
}
_NOT_QUOTED = {401, 403}  # these answers may repeat a part of the key
# The vendor's failure codes, in lower case our own, and what the owner of the document can do.
_FAILURES = {
    "UNSUPPORTED_FILE_TYPE": "the parser does not take this type of file; convert it to PDF and upload that",
    "PDF_IS_PROTECTED": "the PDF is protected by a password; remove the password and upload it again",
    "PDF_IS_BROKEN": "the PDF is damaged; open it, save it to a new PDF and upload that",
    "NO_DATA_FOUND_IN_FILE": "the parser found nothing to read; is the file empty, or does it need text recognition?",
    "DOCUMENT_TOO_LARGE": "the document is too large for the parser; split it and upload the parts",
    "TOO_MANY_PAGES": "the document has more pages than the parser takes; split it and upload the parts",
}
_TIMEOUT = "TIMEOUT"
_KNOWN_CODE = re.compile(r"\b(" + "|".join([*_FAILURES, _TIMEOUT]) + r")\b")
_LEADING_CODE = re.compile(r"([A-Z][A-Z0-9_]{2,63})(?::|$)")


def parse_failure(job: ParseJob) -> IngestionError:
    """Why a job ended without a result: permanent, with a message for the document's owner, but for a timeout."""
    said = f" (the parser says: {quoted(job.error_message)})" if job.error_message else ""
    if job.outcome is ParseOutcome.CANCELLED:
        return PermanentError("the parse job was cancelled at the parser", code="parse_cancelled")
    if job.error_code == _TIMEOUT:
        return VendorUnavailableError(f"the parser ran out of time{said}", code="timeout")
    remedy = _FAILURES.get(job.error_code or "")
    if remedy is None:
        return PermanentError(f"the parser failed on this document{said}", code="parse_failed")
    return InvalidDocumentError(f"{remedy}{said}", code=(job.error_code or "").lower())


def refusal(status: int, body: object, wait_seconds: float | None, secrets: tuple[str, ...]) -> IngestionError:
    """The error for an answer of 3xx, 4xx or 5xx."""
    detail = body.get("detail", body) if isinstance(body, dict) else body
    said = "" if status in _NOT_QUOTED or not detail else f": {quoted(detail, *secrets)}"
    if status in (408, 429) or status >= 500:
        code = "rate_limited" if status == 429 else None
        return VendorUnavailableError(f"LlamaCloud answers {status}{said}", code=code, retry_after_seconds=wait_seconds)
    kind, code, meaning = _REFUSALS.get(
        404 if status < 400 else status,  # no redirect is followed
        (VendorRejectedError, "parser_rejected", "it refused the request"),
    )
    return kind(f"LlamaCloud answers {status}: {meaning}{said}", code=code)


def malformed(what: str) -> VendorUnavailableError:
    """The error for an answer that makes no sense; the next one may."""
    return VendorUnavailableError(f"LlamaCloud answered {what}", code="malformed_response")


def read_job(fields: dict[str, Any]) -> ParseJob:
    """A job of the API. It has no field for the failure code: the code begins `error_message`."""
    status, message = fields.get("status"), fields.get("error_message")
    if status not in _OUTCOME_OF_STATUS:
        raise malformed(f"a job with the status {quoted(status)}")
    text = message if isinstance(message, str) and message else None
    code = (_LEADING_CODE.match(text) or _KNOWN_CODE.search(text)) if text else None
    return ParseJob(read_text(fields, "id"), _OUTCOME_OF_STATUS[status], code[1] if code else None, text)


def read_pages(fields: dict[str, Any]) -> list[ParsedPage]:
    """The pages of a Markdown result, ascending."""
    pages = sorted((_page(page) for page in read_objects(fields, "pages")), key=lambda page: page.page_number)
    if len({page.page_number for page in pages}) < len(pages):
        raise malformed("two pages of one number")
    return pages


def read_text(fields: dict[str, Any], name: str) -> str:
    """A string that is not empty."""
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise malformed(f"no {name}")
    return value


def read_object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """A JSON object."""
    value = fields.get(name)
    if not isinstance(value, dict):
        raise malformed(f"no {name}")
    return value


def read_objects(fields: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of JSON objects."""
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise malformed(f"no {name}")
    return value


def _page(fields: dict[str, Any]) -> ParsedPage:
    number, markdown = fields.get("page_number"), fields.get("markdown")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise malformed("a page without a number")
    if fields.get("success") is False:
        return ParsedPage(number, None, quoted(fields.get("error") or "the parser gives no reason"))
    if not isinstance(markdown, str):
        raise malformed(f"page {number} without Markdown")
    return ParsedPage(number, markdown)
