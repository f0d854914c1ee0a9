"""The LlamaCloud adapter against a real HTTP server that speaks the vendor's contract: jobs, webhooks, failures."""

import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any
from uuid import uuid4

import pytest
from parsers_under_test import SECRET, LoopbackServer, Quiet, calls, finished, parser_of, request_for

from ingestion_pipeline.adapters import llamacloud
from ingestion_pipeline.adapters.llamacloud import LlamaCloudParser, verify_webhook
from ingestion_pipeline.domain import ParseJob, ParseOutcome
from ingestion_pipeline.errors import InvalidDocumentError, ParseJobLostError, VendorUnavailableError
from mock_services.process import MockServices, start_mock_services


@dataclass(frozen=True)
class Delivery:
    """A webhook as it arrived."""

    path: str
    signature: str | None
    body: bytes


class Receiver(LoopbackServer):
    """Takes webhooks and answers 204."""

    def __init__(self) -> None:
        self.deliveries: queue.Queue[Delivery] = queue.Queue()
        deliveries = self.deliveries

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                deliveries.put(Delivery(self.path, self.headers["LC-Signature"], body))
                self.send_response(204)
                self.end_headers()

        super().__init__(Handler)

    @property
    def url(self) -> str:
        return f"{super().url}/webhooks/llamaparse"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    with start_mock_services(tmp_path_factory.mktemp("mock"), vectors="instant") as services:
        yield services


@pytest.fixture
def services(running: MockServices) -> MockServices:
    running.control("llamacloud", "POST", "reset", {"state": True})
    return running


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with receiver.serving():
        yield receiver


@pytest.fixture
def parser(services: MockServices) -> Iterator[LlamaCloudParser]:
    parser = parser_of(services)
    yield parser
    parser.close()


def test_a_document_is_submitted_parsed_and_fetched(parser: LlamaCloudParser) -> None:
    job = parser.submit(request_for())
    assert job == ParseJob(job.job_id, None)
    assert finished(parser, job.job_id) == ParseJob(job.job_id, ParseOutcome.SUCCESS)
    (page,) = parser.pages(job.job_id)
    assert page.page_number == 1
    assert page.error is None
    assert page.markdown is not None
    assert "# A contract" in page.markdown


def test_the_webhook_of_a_job_reaches_our_address_signed_and_once(services: MockServices, receiver: Receiver) -> None:
    parser = parser_of(services, webhook_url=receiver.url)
    job = parser.submit(request_for())
    delivery = receiver.deliveries.get(timeout=30)
    assert delivery.path == "/webhooks/llamaparse"
    assert delivery.body.startswith(b"{")
    event = verify_webhook(delivery.body, delivery.signature, SECRET, datetime.now(UTC), 60.0)
    assert (event.job_id, event.event_type, event.outcome) == (job.job_id, "parse.success", ParseOutcome.SUCCESS)
    assert finished(parser, job.job_id).outcome is ParseOutcome.SUCCESS
    assert receiver.deliveries.empty()


@pytest.mark.parametrize(
    ("kind", "fields", "outcome"),
    [
        ("job_failure", {"code": "PDF_IS_BROKEN"}, ParseOutcome.ERROR),
        ("partial", {"pages": [1]}, ParseOutcome.PARTIAL_SUCCESS),
    ],
)
def test_webhooks_tell_of_failures_as_well(
    services: MockServices, receiver: Receiver, kind: str, fields: dict[str, Any], outcome: ParseOutcome
) -> None:
    services.script("llamacloud", kind, **fields)
    job = parser_of(services, webhook_url=receiver.url).submit(request_for())
    delivery = receiver.deliveries.get(timeout=30)
    event = verify_webhook(delivery.body, delivery.signature, SECRET, time.time(), 60.0)
    assert (event.job_id, event.outcome) == (job.job_id, outcome)


def test_a_page_that_the_parser_could_not_read_says_why(parser: LlamaCloudParser, services: MockServices) -> None:
    services.script("llamacloud", "partial", pages=[1])
    job = parser.submit(request_for())
    assert finished(parser, job.job_id).outcome is ParseOutcome.SUCCESS
    (page,) = parser.pages(job.job_id)
    assert (page.page_number, page.markdown) == (1, None)
    assert page.error


def test_a_job_is_found_by_its_document_and_attempt(parser: LlamaCloudParser) -> None:
    request = request_for()
    parser.submit(request_for())
    job = parser.submit(request)
    parser.submit(request_for())
    found = parser.find(request.document_id, 1)
    assert found is not None
    assert found.job_id == job.job_id
    assert parser.find(request.document_id, 2) is None
    assert parser.find(uuid4(), 1) is None


def test_a_job_whose_answer_was_lost_is_found(services: MockServices) -> None:
    parser = parser_of(services, timeout_seconds=0.5)
    request = request_for()
    services.script("llamacloud", "timeout", operation="create_parse_job", when="after")
    with pytest.raises(VendorUnavailableError):
        parser.submit(request)
    found = parser_of(services).find(request.document_id, 1)
    assert found is not None
    assert finished(parser_of(services), found.job_id).outcome is ParseOutcome.SUCCESS


def test_the_search_for_a_job_goes_through_pages_and_ends(
    parser: LlamaCloudParser, services: MockServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacloud, "FIND_PAGE_SIZE", 2)
    monkeypatch.setattr(llamacloud, "FIND_PAGES", 3)
    oldest, sixth = request_for(), request_for()
    for request in (oldest, sixth, *(request_for() for _ in range(5))):
        parser.submit(request)
    assert parser.find(sixth.document_id, 1) is not None
    assert calls(services)["list_parse_jobs"] == 3
    assert parser.find(oldest.document_id, 1) is None
    assert calls(services)["list_parse_jobs"] == 6


def test_an_unknown_job_is_lost(parser: LlamaCloudParser) -> None:
    for ask in (parser.status, parser.pages):
        with pytest.raises(ParseJobLostError, match="pjb-unknown") as caught:
            ask("pjb-unknown")
        assert caught.value.transient


def test_an_expired_result_is_lost_and_one_that_is_not_ready_is_waited_for(
    parser: LlamaCloudParser, services: MockServices
) -> None:
    job = parser.submit(request_for())
    finished(parser, job.job_id)
    services.script("llamacloud", "status", operation="get_parse_job", status=404)
    with pytest.raises(ParseJobLostError, match="no longer has the result"):
        parser.pages(job.job_id)
    services.script("llamacloud", "never_finish")
    job = parser.submit(request_for())
    with pytest.raises(VendorUnavailableError) as caught:
        parser.pages(job.job_id)
    assert caught.value.code == "parse_not_ready"
    parser.cancel(job.job_id)


def test_a_job_is_cancelled_and_cancelling_again_is_no_error(parser: LlamaCloudParser, services: MockServices) -> None:
    services.script("llamacloud", "never_finish")
    job = parser.submit(request_for())
    parser.cancel(job.job_id)
    ended = finished(parser, job.job_id)
    assert ended.outcome is ParseOutcome.CANCELLED
    assert parser.failure(ended).code == "parse_cancelled"
    parser.cancel(job.job_id)
    parser.cancel("pjb-unknown")
    done = parser.submit(request_for())
    finished(parser, done.job_id)
    parser.cancel(done.job_id)
    assert parser.status(done.job_id).outcome is ParseOutcome.SUCCESS


FAILURES = [
    "UNSUPPORTED_FILE_TYPE",
    "PDF_IS_PROTECTED",
    "PDF_IS_BROKEN",
    "NO_DATA_FOUND_IN_FILE",
    "DOCUMENT_TOO_LARGE",
    "TOO_MANY_PAGES",
]


@pytest.mark.parametrize("code", FAILURES)
def test_a_failure_of_the_document_is_permanent_under_the_vendors_code(
    parser: LlamaCloudParser, services: MockServices, code: str
) -> None:
    services.script("llamacloud", "job_failure", code=code)
    job = finished(parser, parser.submit(request_for()).job_id)
    assert (job.outcome, job.error_code) == (ParseOutcome.ERROR, code)
    error = parser.failure(job)
    assert isinstance(error, InvalidDocumentError)
    assert (error.code, error.transient) == (code.lower(), False)
    with pytest.raises(InvalidDocumentError) as caught:
        parser.pages(job.job_id)
    assert caught.value.message == error.message


def test_a_timeout_of_the_parser_is_transient(parser: LlamaCloudParser, services: MockServices) -> None:
    services.script("llamacloud", "job_failure", code="TIMEOUT")
    error = parser.failure(finished(parser, parser.submit(request_for()).job_id))
    assert (error.code, error.transient) == ("timeout", True)
