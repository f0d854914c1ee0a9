"""What goes wrong between us and LlamaCloud, and how it is classified; how documents get there."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from parsers_under_test import KEY, SECRET, calls, finished, parser_of, request_for

from ingestion_pipeline.adapters.llamacloud import LlamaCloudParser
from ingestion_pipeline.domain import ParseOutcome
from ingestion_pipeline.errors import (
    ConfigurationError,
    IngestionError,
    RequestRejectedError,
    StoreUnavailableError,
    VendorRejectedError,
    VendorUnavailableError,
)
from mock_services.process import MockServices, start_mock_services

DOCUMENT = UUID("00000000-0000-4000-8000-00000000000d")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    with start_mock_services(tmp_path_factory.mktemp("mock"), vectors="instant") as services:
        yield services


@pytest.fixture
def services(running: MockServices) -> MockServices:
    running.control("llamacloud", "POST", "reset", {"state": True})
    return running


@pytest.fixture
def parser(services: MockServices) -> Iterator[LlamaCloudParser]:
    parser = parser_of(services)
    yield parser
    parser.close()


def every_call(parser: LlamaCloudParser, job_id: str) -> dict[str, Callable[[], Any]]:
    """Each operation of the vendor, and a call of ours that ends with it."""
    return {
        "create_file": lambda: parser.submit(request_for()),
        "create_parse_job": lambda: parser.submit(request_for()),
        "list_parse_jobs": lambda: parser.find(DOCUMENT, 1),
        "get_parse_job": lambda: parser.pages(job_id),
        "cancel_parse_job": lambda: parser.cancel(job_id),
    }


OPERATIONS = ["create_file", "create_parse_job", "list_parse_jobs", "get_parse_job", "cancel_parse_job"]
WITHOUT_BODY = {"list_parse_jobs", "get_parse_job", "cancel_parse_job"}
PERMANENT = [
    (400, RequestRejectedError, "parser_bad_request"),
    (401, VendorRejectedError, "parser_unauthorised"),
    (402, VendorRejectedError, "parser_no_credit"),
    (403, VendorRejectedError, "parser_forbidden"),
    (404, VendorRejectedError, "parser_not_found"),
    (413, RequestRejectedError, "parser_too_large"),
    (418, VendorRejectedError, "parser_rejected"),
    (422, RequestRejectedError, "parser_unprocessable"),
]
MEANS_SOMETHING_ELSE = {
    ("create_parse_job", 404),  # the file was taken a moment ago
    ("get_parse_job", 404),  # the job or its result is gone
    ("cancel_parse_job", 400),  # over already
    ("cancel_parse_job", 404),
}
TRANSIENT = [
    ({"kind": "status", "status": 408}, "vendor_unavailable"),
    ({"kind": "status", "status": 429}, "rate_limited"),
    ({"kind": "status", "status": 500}, "vendor_unavailable"),
    ({"kind": "status", "status": 502}, "vendor_unavailable"),
    ({"kind": "status", "status": 503}, "vendor_unavailable"),
    ({"kind": "cut"}, "vendor_unavailable"),
    ({"kind": "truncated_body"}, "vendor_unavailable"),
    ({"kind": "malformed_body"}, "malformed_response"),
]


@pytest.mark.parametrize(
    ("operation", "status", "kind", "code"),
    [
        (operation, *refusal)
        for operation in OPERATIONS
        for refusal in PERMANENT
        if (operation, refusal[0]) not in MEANS_SOMETHING_ELSE
    ],
)
def test_a_refusal_is_permanent_and_asked_for_once(
    parser: LlamaCloudParser,
    services: MockServices,
    operation: str,
    status: int,
    kind: type[IngestionError],
    code: str,
) -> None:
    job = parser.submit(request_for())
    before = calls(services).get(operation, 0)
    services.script("llamacloud", "status", operation=operation, status=status, times=None)
    with pytest.raises(kind) as caught:
        every_call(parser, job.job_id)[operation]()
    assert (type(caught.value), caught.value.code, caught.value.transient) == (kind, code, False)
    assert calls(services)[operation] == before + 1


@pytest.mark.parametrize(("fault", "code"), TRANSIENT, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_failure_of_the_vendor_is_transient_and_asked_for_once(
    parser: LlamaCloudParser, services: MockServices, operation: str, fault: dict[str, Any], code: str
) -> None:
    job = parser.submit(request_for())
    finished(parser, job.job_id)
    before = calls(services).get(operation, 0)
    if operation == "cancel_parse_job":
        services.script("llamacloud", "never_finish")
        job = parser.submit(request_for())
    # A connection that was kept and is closed without an answer says nothing of a question that can be asked again.
    asked = 2 if fault["kind"] == "cut" and operation in WITHOUT_BODY else 1
    services.script("llamacloud", operation=operation, times=asked, **fault)
    with pytest.raises(VendorUnavailableError) as caught:
        every_call(parser, job.job_id)[operation]()
    assert (caught.value.code, caught.value.transient, caught.value.retry_after_seconds) == (code, True, None)
    assert calls(services)[operation] == before + asked
    every_call(parser, job.job_id)[operation]()


def test_a_file_that_the_vendor_forgets_at_once_is_transient(parser: LlamaCloudParser, services: MockServices) -> None:
    services.script("llamacloud", "status", operation="create_parse_job", status=404)
    with pytest.raises(VendorUnavailableError, match="has just taken"):
        parser.submit(request_for())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_vendor_that_does_not_answer_is_given_up_after_the_timeout(services: MockServices, operation: str) -> None:
    job = parser_of(services).submit(request_for())
    parser = parser_of(services, timeout_seconds=0.3)
    services.script("llamacloud", "timeout", operation=operation)
    started = time.monotonic()
    with pytest.raises(VendorUnavailableError, match="in time"):
        every_call(parser, job.job_id)[operation]()
    assert time.monotonic() - started < 5


def test_a_vendor_that_is_not_there_is_unavailable(services: MockServices) -> None:
    parser = parser_of(services, base_url="http://127.0.0.1:9")
    for call in every_call(parser, "pjb-1").values():
        with pytest.raises(VendorUnavailableError, match="can't be reached"):
            call()


@pytest.mark.parametrize(("status", "asked", "waited"), [(429, 12, 12), (503, 12, 12), (503, 20_000, 3600)])
def test_the_vendors_own_waiting_time_is_passed_on(
    parser: LlamaCloudParser, services: MockServices, status: int, asked: int, waited: int
) -> None:
    services.script("llamacloud", "status", status=status, retry_after=asked)
    with pytest.raises(VendorUnavailableError) as caught:
        parser.submit(request_for())
    assert caught.value.retry_after_seconds == waited


def test_what_the_vendor_refuses_by_itself_is_classified_too(services: MockServices) -> None:
    with pytest.raises(VendorRejectedError) as wrong_key:
        parser_of(services, api_key="not-a-llama-key").submit(request_for())
    assert wrong_key.value.code == "parser_unauthorised"
    with pytest.raises(RequestRejectedError, match="tier") as wrong_tier:
        parser_of(services, tier="no_such_tier").submit(request_for())
    assert wrong_tier.value.code == "parser_unprocessable"


def test_no_message_shows_the_key_or_the_signing_secret(parser: LlamaCloudParser, services: MockServices) -> None:
    services.script("llamacloud", "status", status=400, message=f"odd: {KEY} and\n{SECRET}")
    with pytest.raises(RequestRejectedError, match=r"odd: \*\*\* and \*\*\*"):
        parser.submit(request_for())
    services.script("llamacloud", "status", status=401, message=f"invalid key {KEY[:9]}...")
    with pytest.raises(VendorRejectedError) as caught:
        parser.submit(request_for())
    assert KEY[:9] not in str(caught.value)


@pytest.mark.parametrize("changes", [{"base_url": "cloud"}, {"api_key": ""}, {"api_key": "llx-\n"}], ids=ascii)
def test_settings_that_no_request_can_be_made_with_are_refused(services: MockServices, changes: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="of LlamaCloud"):
        parser_of(services, **changes)


def test_an_error_of_the_source_stays_what_it_is_and_nothing_is_sent(
    parser: LlamaCloudParser, services: MockServices
) -> None:
    error = StoreUnavailableError("the store is gone")

    def parts() -> Iterator[bytes]:
        yield b"# A beg"
        raise error

    with pytest.raises(StoreUnavailableError) as caught:
        parser.submit(request_for(parts=parts()))
    assert caught.value is error
    assert calls(services) == {}


def test_threads_share_one_parser(parser: LlamaCloudParser) -> None:
    with ThreadPoolExecutor(8) as pool:
        requests = [request_for(text=f"# Document {number}\n") for number in range(16)]
        jobs = list(pool.map(parser.submit, requests))
        pages = list(pool.map(lambda job: parser.pages(finished(parser, job.job_id).job_id), jobs))
    assert [page[0].markdown for page in pages] == [f"# Document {number}\n" for number in range(16)]


@pytest.mark.parametrize("filename", ["Übergröße 文書.md", "a\\b;c=d.md"])
def test_a_file_keeps_its_name(parser: LlamaCloudParser, services: MockServices, filename: str) -> None:
    services.script("llamacloud", "job_failure", match=filename, code="PDF_IS_BROKEN")
    job = parser.submit(request_for(filename))
    assert finished(parser, job.job_id).outcome is ParseOutcome.ERROR


SUBMIT_IN_A_PROCESS = """
import sys
from pathlib import Path
from uuid import uuid4
from ingestion_pipeline.adapters.llamacloud import LlamaCloudParser
from ingestion_pipeline.errors import RequestRejectedError
from ingestion_pipeline.ports import ParseRequest

def memory():
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) // 1024

parser = LlamaCloudParser("llx-key", sys.argv[1], "http://127.0.0.1:9/", "a-signing-secret")

def submit(megabytes):
    parts = (bytes(1 << 20) for _ in range(megabytes))
    try:
        parser.submit(ParseRequest(uuid4(), uuid4(), 1, "huge.pdf", "application/pdf", parts))
    except RequestRejectedError:
        return memory()

print(-submit(1) + submit(100))
"""


def test_a_file_of_100_megabytes_is_submitted_in_less_than_25_megabytes_of_memory(services: MockServices) -> None:
    services.script("llamacloud", "status", operation="create_parse_job", status=400, times=None)
    command = [sys.executable, "-c", SUBMIT_IN_A_PROCESS, services.llamacloud_url]
    growth = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0 <= growth < 25
    assert calls(services)["create_file"] == 2
