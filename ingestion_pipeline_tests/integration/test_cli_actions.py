"""`ingest failures`, `retry` and `cancel` against the real API and PostgreSQL."""

import json
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from command_line import run_ingest
from conftest import DatabaseUrls
from document_journey import Journey
from running_api import KEY, OWNER, RunningApi
from standin_workers import fail_parse
from stored_documents import register, sql

from ingestion_pipeline.domain import Failure
from ingestion_pipeline.remedies import remedy_for

Run = Callable[..., subprocess.CompletedProcess[str]]
UNKNOWN = str(uuid4())


@pytest.fixture
def ingest(api: RunningApi, tmp_path: Path) -> Run:
    """Runs `ingest` with the API's address and key."""
    settings = {"INGEST_API_URL": api.url, "INGEST_API_KEY": KEY}
    return lambda *arguments: run_ingest(*arguments, settings=settings, directory=tmp_path)


@pytest.fixture
def failed(api: RunningApi, database_urls: DatabaseUrls) -> Callable[[str, str], str]:
    """Makes a dead letter of a name and a code; returns its id."""

    def make(name: str, code: str) -> str:
        document_id: str = api.upload(f"# {name}".encode(), f"{name}.md").json()["document_id"]
        fail_parse(database_urls.owner, document_id, code, f"what is wrong with {name}")
        return document_id

    return make


def state_of(api: RunningApi, document_id: str) -> str:
    state: str = api.get(f"/documents/{document_id}")["state"]
    return state


def test_failures_are_listed_by_code_with_reason_and_remedy_and_the_next_try(
    api: RunningApi, database_urls: DatabaseUrls, ingest: Run, failed: Callable[[str, str], str]
) -> None:
    broken = [failed("broken", "pdf_is_broken"), failed("shattered", "pdf_is_broken")]
    waiting = api.upload(b"# patient", "patient.md").json()["document_id"]
    with closing(Journey(database_urls.worker, UUID(waiting))) as journey:
        journey.retry_later(Failure("vendor_unavailable", "no answer", "raw_upload", transient=True))
    fine = api.upload(b"# fine").json()["document_id"]

    done = ingest("failures")

    assert done.returncode == 0, done.stderr
    assert fine not in done.stdout
    assert f"pdf_is_broken (2): {remedy_for('pdf_is_broken')}" in done.stdout
    assert f"vendor_unavailable (1): {remedy_for('vendor_unavailable')}" in done.stdout
    lines = [line.lstrip() for line in done.stdout.splitlines()]  # nothing behind them: they are copied and searched
    place = lines.index(f"{broken[0]}  failed_parse  attempt 0  broken.md")
    assert lines[place + 1] == "what is wrong with broken"
    next_try = api.get(f"/documents/{waiting}")["next_attempt_at"]
    [line] = [line for line in lines if waiting in line]
    assert line.startswith(f"{waiting}  uploaded  attempt 1, next try 20")
    assert f"{next_try[13:19]}  patient.md" in line  # minutes and seconds: the hour is local
    assert f"vendor_unavailable, next try {line.split()[6]}" in ingest("status").stdout

    only = ingest("failures", "--code", "pdf_is_broken", "--limit", "1")
    assert [document_id for document_id in (*broken, waiting) if document_id in only.stdout] == broken[1:]
    assert "only the latest 1 are listed" in only.stdout
    assert ingest("failures", "--state", "failed_embedding").stdout == "Nothing has failed.\n"


def test_named_documents_are_retried_and_what_can_not_be_is_told(
    api: RunningApi, ingest: Run, failed: Callable[[str, str], str]
) -> None:
    document_id = failed("broken", "pdf_is_broken")
    busy = api.upload(b"# busy").json()["document_id"]

    done = ingest("retry", document_id, busy, UNKNOWN)

    assert done.returncode == 1
    assert f"{document_id}: uploaded (broken.md)" in done.stdout
    assert f"{busy}: refused [not_retryable]: The document {busy} is uploaded" in done.stdout
    assert f"{UNKNOWN}: refused [not_found]: There is no document" in done.stdout
    assert done.stdout.endswith("1 retried, 2 refused\n")
    assert state_of(api, document_id) == "uploaded"
    assert ingest("failures").stdout == "Nothing has failed.\n"


def test_all_dead_letters_or_those_of_a_code_are_retried(
    api: RunningApi, ingest: Run, failed: Callable[[str, str], str]
) -> None:
    broken, shattered, unpaid = (
        failed("broken", "pdf_is_broken"),
        failed("shattered", "pdf_is_broken"),
        failed("unpaid", "parser_no_credit"),
    )
    done = ingest("retry", "--all", "--code", "pdf_is_broken")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 retried")
    assert [state_of(api, each) for each in (broken, shattered, unpaid)] == ["uploaded", "uploaded", "failed_parse"]
    assert ingest("retry", "--all").stdout.splitlines()[-1] == "1 retried"
    assert ingest("retry", "--all").stdout == "0 retried\n"


def test_documents_are_cancelled_and_taken_up_again(api: RunningApi, ingest: Run) -> None:
    document_id = api.upload(b"# unwanted").json()["document_id"]
    done = ingest("cancel", document_id)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 cancelled")
    assert state_of(api, document_id) == "cancelled"
    assert ingest("retry", "--all", "--state", "cancelled", "--start-over").stdout.splitlines()[-1] == "1 retried"
    assert state_of(api, document_id) == "uploaded"


def test_more_documents_than_a_page_of_the_api_has_are_all_retried(
    api: RunningApi, database_urls: DatabaseUrls, ingest: Run
) -> None:
    register(database_urls.owner, owner=OWNER, sizes=[1] * 205)
    sql(database_urls.owner, "update upload_pipeline.upload_jobs set state = 'failed_parse', last_error_code = 'code'")
    assert ingest("retry", "--all").stdout.splitlines()[-1] == "205 retried"
    assert api.get("/documents/summary")["states"]["uploaded"] == 205


@pytest.mark.parametrize(
    "arguments",
    [("retry",), ("retry", "--all", UNKNOWN), ("retry", "--code", "x", UNKNOWN), ("retry", "nonsense"), ("cancel",)],
)
def test_a_command_that_does_not_say_what_is_meant_is_told_so(ingest: Run, arguments: tuple[str, ...]) -> None:
    done = ingest(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Usage: ingest {arguments[0]}")


def test_an_upload_of_what_failed_before_says_how_to_retry_it(
    tmp_path: Path, database_urls: DatabaseUrls, ingest: Run
) -> None:
    file = tmp_path / "one.txt"
    file.write_text("This will fail.")
    [first] = json.loads(ingest("upload", "--no-wait", "--json", file).stdout)
    fail_parse(database_urls.owner, first["document_id"], "pdf_is_broken", "the PDF is damaged")

    [again] = json.loads(ingest("upload", "--json", file).stdout)

    assert again["state"] == "failed_parse"
    assert again["reason"] == (
        f"the PDF is damaged. {remedy_for('pdf_is_broken')} "
        f"It was uploaded before: `ingest retry {first['document_id']}` takes it up again."
    )
