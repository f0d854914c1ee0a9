"""Reading what LlamaParse answers: jobs, failure codes and pages, and what is malformed."""

import json

import pytest

from ingestion_pipeline.adapters.llamacloud_answers import parse_failure, read_job, read_pages
from ingestion_pipeline.domain import ParsedPage, ParseJob, ParseOutcome
from ingestion_pipeline.errors import VendorUnavailableError


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (None, None),
        ("", None),
        ("PDF_IS_PROTECTED", "PDF_IS_PROTECTED"),
        ("PDF_IS_PROTECTED: needs a password", "PDF_IS_PROTECTED"),
        ("Parse failed with TOO_MANY_PAGES", "TOO_MANY_PAGES"),
        ("A_NEW_CODE: of the vendor", "A_NEW_CODE"),
        ("PDF is broken", None),
        ("no code at all", None),
    ],
)
def test_the_failure_code_is_read_from_the_message_of_the_job(message: str | None, code: str | None) -> None:
    job = read_job({"id": "pjb-1", "status": "FAILED", "error_message": message})
    assert (job.error_code, job.error_message) == (code, message or None)


def test_a_failure_of_an_unknown_code_is_permanent_and_quotes_the_parser() -> None:
    error = parse_failure(ParseJob("pjb-1", ParseOutcome.ERROR, "A_NEW_CODE", "A_NEW_CODE: odd"))
    assert (error.code, error.transient) == ("parse_failed", False)
    assert "A_NEW_CODE: odd" in error.message
    assert parse_failure(ParseJob("pjb-1", ParseOutcome.ERROR)).code == "parse_failed"


MALFORMED_JOBS = [
    "{}",
    '{"id": 7, "status": "PENDING"}',
    '{"id": "", "status": "PENDING"}',
    '{"id": "a", "status": "ODD"}',
]
MALFORMED_PAGES = [
    "{}",
    '{"pages": null}',
    '{"pages": [7]}',
    '{"pages": [{"success": true, "markdown": "a"}]}',
    '{"pages": [{"page_number": 0, "markdown": "a"}]}',
    '{"pages": [{"page_number": true, "markdown": "a"}]}',
    '{"pages": [{"page_number": 1, "success": true, "markdown": null}]}',
    '{"pages": [{"page_number": 1, "markdown": "a"}, {"page_number": 1, "markdown": "b"}]}',
]


@pytest.mark.parametrize("body", MALFORMED_JOBS)
def test_a_job_without_what_it_needs_is_malformed(body: str) -> None:
    with pytest.raises(VendorUnavailableError) as caught:
        read_job(json.loads(body))
    assert caught.value.code == "malformed_response"


@pytest.mark.parametrize("body", MALFORMED_PAGES)
def test_pages_without_what_they_need_are_malformed(body: str) -> None:
    with pytest.raises(VendorUnavailableError) as caught:
        read_pages(json.loads(body))
    assert caught.value.code == "malformed_response"


def test_pages_come_in_the_order_of_their_numbers() -> None:
    pages = [{"page_number": 2, "success": False, "error": "OCR failed"}, {"page_number": 1, "markdown": ""}]
    assert read_pages({"pages": pages}) == [ParsedPage(1, ""), ParsedPage(2, None, "OCR failed")]
