"""The mock LlamaCloud's contract apart from parsing: errors, lists, life of a job, what survives a crash."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import llama_cloud
import pytest
from llama_cloud import LlamaCloud

from mock_services.process import MockServices, start_mock_services

AUTHORIZED = {"authorization": "Bearer llx-test"}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    directory = tmp_path_factory.mktemp("mock")
    with start_mock_services(directory, vectors="instant", max_upload_megabytes=0.5) as running:
        yield running


@pytest.fixture(autouse=True)
def no_faults_left(services: MockServices) -> Iterator[None]:
    yield
    services.control("llamacloud", "POST", "reset")


@pytest.fixture(scope="module")
def client(services: MockServices) -> LlamaCloud:
    return client_of(services)


def client_of(services: MockServices, key: str = "llx-test", **options: Any) -> LlamaCloud:
    return LlamaCloud(api_key=key, base_url=services.llamacloud_url, **{"max_retries": 0, **options})


def create(client: LlamaCloud, name: str = "note.md", content: bytes = b"# Note", **options: Any) -> str:
    file = client.files.create(file=(name, content), purpose="parse")
    job = client.parsing.create(**{"tier": "agentic", "version": "latest", "file_id": file.id, **options})
    return job.id


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def wait_for(client: LlamaCloud, job_id: str, status: str) -> None:
    wait_until(lambda: client.parsing.get(job_id).job.status == status)


def test_a_file_keeps_its_name_and_external_id(client: LlamaCloud) -> None:
    file = client.files.create(file=("a b.pdf", b"x"), purpose="parse", external_file_id="doc-7")
    assert (file.name, file.external_file_id, file.purpose, file.file_type) == ("a b.pdf", "doc-7", "parse", "pdf")
    assert file.expires_at is not None


def test_a_job_starts_pending_and_echoes_its_metadata(client: LlamaCloud) -> None:
    file = client.files.create(file=("n.md", b"# N"), purpose="parse")
    metadata = {"document": "d-1", "attempt": "2"}
    job = client.parsing.create(tier="agentic_plus", version="2026-09-28", file_id=file.id, user_metadata=metadata)
    assert job.status == "PENDING"
    assert (job.tier, job.user_metadata, job.error_message, job.usage) == ("agentic_plus", metadata, None, None)
    wait_for(client, job.id, "COMPLETED")
    found = client.parsing.get(job.id).job
    assert found.user_metadata == metadata
    assert found.usage is not None
    assert found.usage.credits == 45


@pytest.mark.parametrize("key", ["sk-wrong", "anything"])
def test_a_key_of_another_kind_is_refused(services: MockServices, key: str) -> None:
    with pytest.raises(llama_cloud.AuthenticationError) as refusal:
        client_of(services, key).parsing.list()
    assert refusal.value.status_code == 401
    assert "API key" in refusal.value.body["detail"]  # type: ignore[index]


def test_a_request_without_a_key_is_refused(services: MockServices) -> None:
    assert httpx.get(f"{services.llamacloud_url}/api/v2/parse").status_code == 401


def test_another_project_is_forbidden(client: LlamaCloud) -> None:
    with pytest.raises(llama_cloud.PermissionDeniedError):
        client.parsing.list(project_id="prj-of-somebody-else")
    own = client.files.create(file=("n.md", b"# N"), purpose="parse").project_id
    assert client.parsing.list(project_id=own).items is not None


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"tier": "agentic", "file_id": "FILE"}, 400, "version"),
        ({"tier": "agentic", "version": "latest"}, 400, "input"),
        ({"tier": "agentic", "version": "latest", "file_id": "FILE", "source_url": "http://x.test/a"}, 400, "input"),
        (
            {"tier": "fast", "version": "latest", "file_id": "FILE", "output_options": {"markdown": {"a": 1}}},
            400,
            "fast",
        ),
        ({"tier": "deluxe", "version": "latest", "file_id": "FILE"}, 422, "tier"),
        ({"version": "latest", "file_id": "FILE"}, 422, "tier"),
        ({"tier": "agentic", "version": "newest", "file_id": "FILE"}, 422, "version"),
        ({"tier": "agentic", "version": "latest", "file_id": "dfl-unknown"}, 404, "dfl-unknown"),
        (
            {
                "tier": "agentic",
                "version": "latest",
                "file_id": "FILE",
                "webhook_configurations": [{"webhook_url": "http://x.test", "webhook_output_format": "xml"}],
            },
            422,
            "webhook_output_format",
        ),
        (
            {
                "tier": "agentic",
                "version": "latest",
                "file_id": "FILE",
                "webhook_configurations": [{"webhook_url": "http://x.test", "webhook_events": ["parse.done"]}],
            },
            422,
            "parse.done",
        ),
    ],
)
def test_a_bad_create_is_refused_and_makes_no_job(
    services: MockServices, client: LlamaCloud, body: dict[str, Any], status: int, words: str
) -> None:
    before = len(client.parsing.list(page_size=1000).items)
    if body.get("file_id") == "FILE":
        body = body | {"file_id": client.files.create(file=("n.md", b"# N"), purpose="parse").id}
    answer = httpx.post(f"{services.llamacloud_url}/api/v2/parse", json=body, headers=AUTHORIZED)
    assert answer.status_code == status
    assert words in str(answer.json()["detail"])
    assert len(client.parsing.list(page_size=1000).items) == before


def test_a_body_that_is_no_json_is_refused(services: MockServices) -> None:
    answer = httpx.post(f"{services.llamacloud_url}/api/v2/parse", content=b"{", headers=AUTHORIZED)
    assert answer.status_code == 422


def test_markdown_of_the_fast_tier_is_refused_but_its_text_is_not(client: LlamaCloud) -> None:
    job_id = create(client, tier="fast")
    wait_for(client, job_id, "COMPLETED")
    with pytest.raises(llama_cloud.BadRequestError):
        client.parsing.get(job_id, expand=["markdown"])
    text = client.parsing.get(job_id, expand=["text"]).text
    assert text is not None
    assert text.pages[0].text == "# Note"


def test_a_file_above_the_limit_is_refused(client: LlamaCloud) -> None:
    for upload in (
        lambda: client.files.create(file=("big.txt", b"x" * 600_000), purpose="parse"),
        lambda: client.parsing.create(upload_file=("big.txt", b"x" * 600_000), tier="agentic", version="latest"),
    ):
        with pytest.raises(llama_cloud.APIStatusError) as refusal:
            upload()
        assert refusal.value.status_code == 413


def test_a_bad_purpose_is_refused(client: LlamaCloud) -> None:
    with pytest.raises(llama_cloud.UnprocessableEntityError):
        client.files.create(file=("n.md", b"x"), purpose="fun")


def test_the_upload_call_of_the_sdk_loses_the_metadata(client: LlamaCloud) -> None:
    job = client.parsing.create(
        upload_file=("up.md", b"# Up"), tier="agentic", version="latest", user_metadata={"document": "d"}
    )
    assert job.name == "up.md"
    assert job.user_metadata is None


def test_an_unknown_job_is_not_found(client: LlamaCloud) -> None:
    for call in (client.parsing.get, client.parsing.cancel, client.parsing.delete):
        with pytest.raises(llama_cloud.NotFoundError):
            call("pjb-unknown")


def test_a_result_is_not_found_before_the_job_is_finished(services: MockServices, client: LlamaCloud) -> None:
    services.script("llamacloud", "never_finish", match="slow.md")
    job_id = create(client, "slow.md")
    wait_for(client, job_id, "RUNNING")
    with pytest.raises(llama_cloud.NotFoundError):
        client.parsing.get(job_id, expand=["markdown"])


def test_a_running_job_can_be_cancelled_and_a_finished_one_cannot(services: MockServices, client: LlamaCloud) -> None:
    services.script("llamacloud", "never_finish", match="endless.md")
    job_id = create(client, "endless.md")
    with pytest.raises(llama_cloud.BadRequestError):
        client.parsing.delete(job_id)
    assert client.parsing.cancel(job_id).status == "CANCELLED"
    assert client.parsing.get(job_id, expand=["markdown"]).markdown is None
    with pytest.raises(llama_cloud.BadRequestError):
        client.parsing.cancel(job_id)


def test_a_finished_job_can_be_deleted(client: LlamaCloud) -> None:
    job_id = create(client)
    wait_for(client, job_id, "COMPLETED")
    deleted = client.parsing.delete(job_id)
    assert deleted.id == job_id
    with pytest.raises(llama_cloud.NotFoundError):
        client.parsing.get(job_id)


def test_jobs_are_listed_newest_first_page_by_page_and_filtered(services: MockServices, client: LlamaCloud) -> None:
    services.script("llamacloud", "job_failure", match="l4.md", code="TIMEOUT")
    ids = [create(client, f"l{number}.md") for number in range(5)]
    for job_id in ids[:4]:
        wait_for(client, job_id, "COMPLETED")
    wait_for(client, ids[4], "FAILED")
    page = client.parsing.list(job_ids=ids, page_size=2)
    assert [job.id for job in page.items] == [ids[4], ids[3]]
    assert page.next_page_token
    assert [job.id for job in client.parsing.list(job_ids=ids, page_size=2)] == ids[::-1]
    assert [job.id for job in client.parsing.list(job_ids=ids, status="FAILED")] == [ids[4]]


def test_a_bad_status_filter_is_refused(services: MockServices) -> None:
    answer = httpx.get(f"{services.llamacloud_url}/api/v2/parse?status=DONE", headers=AUTHORIZED)
    assert answer.status_code == 422


def test_versions_are_listed_by_tier(client: LlamaCloud) -> None:
    versions = client.parsing.list_versions()
    assert versions.latest.agentic == versions.agentic[0] == "2026-10-16"


def test_a_parse_that_takes_longer_than_its_own_limit_fails(services: MockServices, client: LlamaCloud) -> None:
    services.script("llamacloud", "parse_delay", seconds=30, match="patient.md")
    job_id = create(client, "patient.md", processing_control={"timeouts": {"base_in_seconds": 1}})
    wait_for(client, job_id, "FAILED")
    assert (client.parsing.get(job_id).job.error_message or "").startswith("TIMEOUT: ")


def test_jobs_files_and_results_survive_kill_and_sigterm_is_clean_with_work_open(tmp_path: Path) -> None:
    services = start_mock_services(tmp_path, vectors="instant")
    try:
        client = client_of(services)
        done = create(client, "done.md", b"# Done", user_metadata={"document": "d-9"})
        wait_for(client, done, "COMPLETED")
        services.script("llamacloud", "never_finish", match="hanging.md")
        hanging = create(client, "hanging.md", b"# Hanging")
        wait_for(client, hanging, "RUNNING")
        file = client.files.create(file=("later.md", b"# Later"), purpose="parse")
        services.kill()
        services = services.restart()
        wait_for(client, hanging, "COMPLETED")
        result = client.parsing.get(done, expand=["markdown"])
        assert result.job.user_metadata == {"document": "d-9"}
        assert result.markdown is not None
        assert result.markdown.pages[0].markdown == "# Done"  # type: ignore[union-attr]
        later = client.parsing.create(tier="agentic", version="latest", file_id=file.id)
        wait_for(client, later.id, "COMPLETED")
        assert [job.id for job in client.parsing.list()] == [later.id, hanging, done]
        services.script("llamacloud", "never_finish", times=None)
        create(client)
        started = time.monotonic()
        assert services.stop() == 0
        assert time.monotonic() - started < 5
        assert (tmp_path / "mock_services.log").read_text() == ""
    finally:
        services.stop()


def test_calls_are_counted_by_operation(services: MockServices, client: LlamaCloud) -> None:
    services.control("llamacloud", "POST", "reset")
    for _ in range(2):
        create(client, content=b"# Same")
    with pytest.raises(llama_cloud.NotFoundError):
        client.parsing.get("pjb-unknown")
    calls = services.control("llamacloud", "GET", "calls")
    assert calls["operations"]["create_file"]["statuses"] == {"200": 2}
    assert calls["operations"]["create_parse_job"]["calls"] == 2
    assert calls["operations"]["get_parse_job"]["statuses"] == {"404": 1}
    assert (calls["inputs"], calls["distinct_inputs"]) == (2, 1)


def test_a_reset_with_state_forgets_the_jobs(services: MockServices, client: LlamaCloud) -> None:
    wait_for(client, create(client), "COMPLETED")
    services.control("llamacloud", "POST", "reset", {"state": True})
    assert client.parsing.list().items == []
    wait_for(client, create(client), "COMPLETED")
