"""Scripted faults of both mocks, as the unmodified SDKs see them."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import llama_cloud
import openai
import pytest
from llama_cloud import LlamaCloud
from openai import OpenAI

from mock_services.process import MockServices, start_mock_services

MODEL = "text-embedding-3-small"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    directory = tmp_path_factory.mktemp("mock")
    with start_mock_services(directory, vectors="instant") as running:
        yield running
    assert (directory / "mock_services.log").read_text() == "", "a fault made the servers complain"


@pytest.fixture(autouse=True)
def no_faults_left(services: MockServices) -> Iterator[None]:
    yield
    for service in ("llamacloud", "openai"):
        services.control(service, "POST", "reset")


@pytest.fixture
def llamacloud(services: MockServices) -> LlamaCloud:
    return LlamaCloud(api_key="llx-test", base_url=services.llamacloud_url, max_retries=0, timeout=10)


@pytest.fixture
def embedder(services: MockServices) -> OpenAI:
    return OpenAI(api_key="sk-test", base_url=services.openai_base_url, max_retries=0, timeout=10)


def submit(client: LlamaCloud, name: str = "note.md", content: bytes = b"# Note", **options: Any) -> str:
    file = client.files.create(file=(name, content), purpose="parse", external_file_id=f"external {name}")
    return client.parsing.create(**{"tier": "agentic", "version": "latest", "file_id": file.id, **options}).id


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def embed(client: OpenAI, *texts: str, **options: Any) -> list[list[float]]:
    answer = client.embeddings.create(model=MODEL, input=list(texts) or ["text"], **options)
    return [item.embedding for item in answer.data]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, llama_cloud.BadRequestError),
        (401, llama_cloud.AuthenticationError),
        (402, llama_cloud.APIStatusError),
        (403, llama_cloud.PermissionDeniedError),
        (404, llama_cloud.NotFoundError),
        (413, llama_cloud.APIStatusError),
        (422, llama_cloud.UnprocessableEntityError),
        (429, llama_cloud.RateLimitError),
        (500, llama_cloud.InternalServerError),
        (503, llama_cloud.InternalServerError),
    ],
)
def test_llamacloud_answers_any_scripted_status_with_a_detail(
    services: MockServices, llamacloud: LlamaCloud, status: int, error: type[llama_cloud.APIStatusError]
) -> None:
    services.script("llamacloud", "status", status=status, operation="list_parse_jobs")
    with pytest.raises(error) as failure:
        llamacloud.parsing.list()
    assert failure.value.status_code == status
    assert set(failure.value.body) == {"detail"}  # type: ignore[call-overload]
    assert "retry-after" not in failure.value.response.headers
    assert llamacloud.parsing.list().items is not None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (408, openai.APIStatusError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_openai_answers_any_scripted_status_with_its_error_object(
    services: MockServices, embedder: OpenAI, status: int, error: type[openai.APIStatusError]
) -> None:
    services.script("openai", "status", status=status)
    with pytest.raises(error) as failure:
        embed(embedder)
    assert failure.value.status_code == status
    assert set(failure.value.response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_rate_limit_can_say_how_long_to_wait_and_used_up_quota_has_its_own_code(
    services: MockServices, embedder: OpenAI
) -> None:
    services.script("openai", "status", status=429, retry_after=7)
    services.script("openai", "status", status=429, code="insufficient_quota")
    with pytest.raises(openai.RateLimitError) as limited:
        embed(embedder)
    assert limited.value.response.headers["retry-after"] == "7"
    assert limited.value.code == "rate_limit_exceeded"
    with pytest.raises(openai.RateLimitError) as spent:
        embed(embedder)
    assert (spent.value.code, spent.value.type) == ("insufficient_quota", "insufficient_quota")
    assert "retry-after" not in spent.value.response.headers


def test_the_sdks_own_retries_get_past_a_transient_fault(services: MockServices) -> None:
    services.script("openai", "status", status=503, retry_after=0.01)
    client = OpenAI(api_key="sk-test", base_url=services.openai_base_url, max_retries=2)
    assert len(embed(client)) == 1
    calls = services.control("openai", "GET", "calls")["operations"]["create_embeddings"]
    assert calls["statuses"] == {"503": 1, "200": 1}


def test_latency_delays_the_true_answer(services: MockServices, embedder: OpenAI) -> None:
    services.script("openai", "latency", seconds=0.3)
    started = time.monotonic()
    assert len(embed(embedder)) == 1
    assert time.monotonic() - started >= 0.3


def test_a_held_connection_times_out_in_the_sdks(
    services: MockServices, llamacloud: LlamaCloud, embedder: OpenAI
) -> None:
    services.script("openai", "timeout")
    with pytest.raises(openai.APITimeoutError):
        embedder.with_options(timeout=0.3).embeddings.create(model=MODEL, input="text")
    services.script("llamacloud", "timeout", operation="create_file")
    with pytest.raises(llama_cloud.APITimeoutError):
        llamacloud.with_options(timeout=0.3).files.create(file=("n.md", b"x"), purpose="parse")


@pytest.mark.parametrize("kind", ["cut", "truncated_body"])
def test_a_connection_that_breaks_is_a_connection_error_in_the_sdks(
    services: MockServices, llamacloud: LlamaCloud, embedder: OpenAI, kind: str
) -> None:
    services.script("openai", kind)
    with pytest.raises(openai.APIConnectionError):
        embed(embedder)
    assert len(embed(embedder)) == 1
    services.script("llamacloud", kind, operation="list_parse_jobs")
    with pytest.raises(llama_cloud.APIConnectionError):
        llamacloud.parsing.list()
    assert llamacloud.parsing.list().items is not None


def test_a_malformed_body_is_no_json(services: MockServices, llamacloud: LlamaCloud, embedder: OpenAI) -> None:
    services.script("openai", "malformed_body")
    with pytest.raises(ValueError, match=r"JSON|Expecting|Unterminated|delimiter|EOF"):
        embed(embedder)
    services.script("llamacloud", "malformed_body", operation="list_versions")
    with pytest.raises(ValueError, match=r"JSON|Expecting|Unterminated|delimiter|EOF"):
        llamacloud.parsing.list_versions()


def test_a_create_can_time_out_although_the_job_exists(services: MockServices, llamacloud: LlamaCloud) -> None:
    services.script("llamacloud", "timeout", when="after", operation="create_parse_job")
    with pytest.raises(llama_cloud.APITimeoutError):
        submit(llamacloud.with_options(timeout=0.4), user_metadata={"document": "orphan-1"})
    orphans = [job for job in llamacloud.parsing.list() if (job.user_metadata or {}).get("document") == "orphan-1"]
    assert len(orphans) == 1
    wait_until(lambda: llamacloud.parsing.get(orphans[0].id).job.status == "COMPLETED")


def test_a_create_that_times_out_before_its_work_leaves_no_job(services: MockServices, llamacloud: LlamaCloud) -> None:
    services.script("llamacloud", "timeout", operation="create_parse_job")
    with pytest.raises(llama_cloud.APITimeoutError):
        submit(llamacloud.with_options(timeout=0.3), user_metadata={"document": "orphan-2"})
    assert not [job for job in llamacloud.parsing.list() if (job.user_metadata or {}).get("document") == "orphan-2"]


def test_a_server_error_can_come_after_the_work(services: MockServices, llamacloud: LlamaCloud) -> None:
    services.script("llamacloud", "status", status=502, when="after", operation="create_parse_job")
    with pytest.raises(llama_cloud.InternalServerError):
        submit(llamacloud, user_metadata={"document": "orphan-3"})
    assert [job for job in llamacloud.parsing.list() if (job.user_metadata or {}).get("document") == "orphan-3"]


def test_vectors_can_be_too_few_too_short_or_not_numbers(services: MockServices, embedder: OpenAI) -> None:
    services.script("openai", "wrong_count")
    assert len(embed(embedder, "one", "two", "three")) == 2
    services.script("openai", "wrong_count", count=5)
    assert len(embed(embedder, "one", "two", "three")) == 5
    services.script("openai", "wrong_dimension")
    assert [len(vector) for vector in embed(embedder, "one", "two")] == [1535, 1535]
    services.script("openai", "wrong_dimension", dimensions=3072)
    assert len(embed(embedder)[0]) == 3072
    for options in ({}, {"encoding_format": "float"}):
        services.script("openai", "nan_vectors")
        assert all(math.isnan(value) for value in embed(embedder, **options)[0])
    assert len(embed(embedder, "one")[0]) == 1536


def test_a_fault_strikes_only_inputs_that_match(services: MockServices, embedder: OpenAI) -> None:
    services.script("openai", "status", status=500, match="poison", times=None)
    assert len(embed(embedder, "food", "drink")) == 2
    for _ in range(3):
        with pytest.raises(openai.InternalServerError):
            embed(embedder, "food", "some poison here")


def test_skip_and_times_say_which_calls_are_struck(services: MockServices, embedder: OpenAI) -> None:
    services.script("openai", "status", status=500, skip=1, times=2)
    outcomes = []
    for _ in range(5):
        try:
            embed(embedder)
            outcomes.append(200)
        except openai.InternalServerError:
            outcomes.append(500)
    assert outcomes == [200, 500, 500, 200, 200]


def test_faults_of_one_group_strike_one_after_the_other(services: MockServices, embedder: OpenAI) -> None:
    services.script("openai", "status", status=500)
    services.script("openai", "status", status=429)
    with pytest.raises(openai.InternalServerError):
        embed(embedder)
    with pytest.raises(openai.RateLimitError):
        embed(embedder)
    assert len(embed(embedder)) == 1


@pytest.mark.parametrize(
    "code",
    [
        "UNSUPPORTED_FILE_TYPE",
        "PDF_IS_PROTECTED",
        "PDF_IS_BROKEN",
        "NO_DATA_FOUND_IN_FILE",
        "DOCUMENT_TOO_LARGE",
        "TOO_MANY_PAGES",
        "TIMEOUT",
    ],
)
def test_a_job_can_fail_with_each_code(services: MockServices, llamacloud: LlamaCloud, code: str) -> None:
    services.script("llamacloud", "job_failure", code=code, match=f"{code}.md")
    job_id = submit(llamacloud, f"{code}.md")
    wait_until(lambda: llamacloud.parsing.get(job_id).job.status == "FAILED")
    assert (llamacloud.parsing.get(job_id).job.error_message or "").startswith(f"{code}: ")


def test_a_job_can_be_slow(services: MockServices, llamacloud: LlamaCloud) -> None:
    services.script("llamacloud", "parse_delay", seconds=0.4)
    started = time.monotonic()
    job_id = submit(llamacloud)
    wait_until(lambda: llamacloud.parsing.get(job_id).job.status == "COMPLETED")
    assert time.monotonic() - started >= 0.4


def test_a_job_can_complete_with_a_failed_page(services: MockServices, llamacloud: LlamaCloud) -> None:
    services.script("llamacloud", "partial", pages=[2], match="three pages")
    text = "\n\n".join("word " * 12_000 for _ in range(3))
    job_id = submit(llamacloud, "long.md", text.encode(), user_metadata={"title": "three pages"})
    wait_until(lambda: llamacloud.parsing.get(job_id).job.status == "COMPLETED")
    result = llamacloud.parsing.get(job_id, expand=["markdown"]).markdown
    assert result is not None
    assert [(page.page_number, page.success) for page in result.pages] == [(1, True), (2, False), (3, True)]
    assert result.pages[1].error == "OCR failed"  # type: ignore[union-attr]


@pytest.mark.parametrize("by", ["name", "external", "metadata"])
def test_a_document_is_matched_by_any_of_its_names(services: MockServices, llamacloud: LlamaCloud, by: str) -> None:
    match = {"name": "matched.md", "external": "external matched", "metadata": "matched-document"}[by]
    services.script("llamacloud", "job_failure", code="TIMEOUT", match=match)
    other = submit(llamacloud, "other.md")
    struck = submit(llamacloud, "matched.md", user_metadata={"document": "matched-document"})
    wait_until(lambda: llamacloud.parsing.get(struck).job.status == "FAILED")
    wait_until(lambda: llamacloud.parsing.get(other).job.status == "COMPLETED")


def test_reads_of_one_job_can_be_struck_by_its_id(services: MockServices, llamacloud: LlamaCloud) -> None:
    job_id, other = submit(llamacloud), submit(llamacloud)
    services.script("llamacloud", "status", status=404, operation="get_parse_job", match=job_id)
    assert llamacloud.parsing.get(other).job.id == other
    with pytest.raises(llama_cloud.NotFoundError):
        llamacloud.parsing.get(job_id)


def test_faults_are_listed_with_their_strikes_and_forgotten_on_request(
    services: MockServices, embedder: OpenAI
) -> None:
    scripted = services.script("openai", "latency", seconds=0.01, times=3, match="x")
    embed(embedder, "x")
    (listed,) = services.control("openai", "GET", "faults")["faults"]
    assert (listed["id"], listed["struck"], listed["times"]) == (scripted["id"], 1, 3)
    services.control("openai", "DELETE", "faults")
    assert services.control("openai", "GET", "faults") == {"faults": []}


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "latency"},
        {"kind": "status"},
        {"kind": "status", "status": 200},
        {"kind": "job_failure", "code": "NO_SUCH_CODE"},
        {"kind": "explode"},
        {"kind": "cut", "unknown": 1},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(services: MockServices, fault: dict[str, Any]) -> None:
    answer = httpx.post(f"{services.openai_url}/_control/faults", json={"fault": fault})
    assert answer.status_code == 422
    assert services.control("openai", "GET", "faults") == {"faults": []}
