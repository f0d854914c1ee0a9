"""The tables of docs/errors.md, row by row against the adapters and, over HTTP, the vendors' mocks."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from parsers_under_test import finished, parser_of, request_for

from ingestion_pipeline import errors
from ingestion_pipeline.adapters import llamacloud_answers, openai_embedder
from ingestion_pipeline.adapters.guards.breaker import speaks_of_health
from ingestion_pipeline.adapters.llamacloud import LlamaCloudParser
from ingestion_pipeline.adapters.openai_embedder import OpenAIEmbedder
from ingestion_pipeline.domain import ParseJob, ParseOutcome
from ingestion_pipeline.errors import IngestionError, PostponedError
from ingestion_pipeline.settings import PROJECT_ROOT
from mock_services.process import MockServices, start_mock_services

IN_WORDS: dict[str, dict[str, Any]] = {
    "No connection, or one that breaks": {"kind": "cut"},
    "No answer in time": {"kind": "timeout"},
    "What makes no sense": {"kind": "malformed_body"},
}
TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class Row:
    """A row of a table: what is answered, our code, permanent or transient, whether it counts."""

    answer: str
    code: str
    follows: str
    counts: str = "no"

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(r"`(\d{3})`", self.answer)]

    @property
    def vendors_code(self) -> str | None:
        found = re.search(r"with `(\w+)`", self.answer)
        return found[1] if found else None


def rows(section: str) -> list[Row]:
    """The table below a heading."""
    text = (PROJECT_ROOT / "docs" / "errors.md").read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [Row(answer, code.strip("`"), *rest) for answer, code, *rest in cells[2:]]


def name_of(row: Row) -> str:
    return re.sub(r"\W+", " ", row.answer).strip()


LLAMAPARSE = rows("LlamaParse")
OPENAI = rows("OpenAI")
OURS = rows("Ours, before a call")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    with start_mock_services(tmp_path_factory.mktemp("mock"), vectors="instant") as running:
        yield running


@pytest.fixture(scope="module")
def embedder(services: MockServices) -> Iterator[OpenAIEmbedder]:
    made = OpenAIEmbedder("sk-test", services.openai_base_url, "text-embedding-3-small", 1536, TIMEOUT_SECONDS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def parser(services: MockServices) -> Iterator[LlamaCloudParser]:
    made = parser_of(services, timeout_seconds=TIMEOUT_SECONDS)
    yield made
    made.close()


def raised(call: Callable[[], object]) -> IngestionError:
    with pytest.raises(IngestionError) as caught:
        call()
    return caught.value


def assert_is(row: Row, error: IngestionError) -> None:
    assert error.code == row.code
    assert row.follows.startswith("transient" if error.transient else "permanent")
    assert row.counts == ("yes" if speaks_of_health(error) else "no")


def faults_of(row: Row) -> list[dict[str, Any]]:
    if row.answer in IN_WORDS:
        return [IN_WORDS[row.answer]]
    code = {"code": row.vendors_code} if row.vendors_code else {}
    return [{"kind": "status", "status": status, **code} for status in row.statuses]


@pytest.mark.parametrize("row", OPENAI, ids=name_of)
def test_what_openai_answers_is_what_the_table_says(row: Row, services: MockServices, embedder: OpenAIEmbedder) -> None:
    faults = faults_of(row)
    assert faults
    for fault in faults:
        services.control("openai", "POST", "reset")
        services.script("openai", times=1, **fault)
        assert_is(row, raised(lambda: embedder.embed(["a text"])))


@pytest.mark.parametrize("row", [row for row in LLAMAPARSE if "job" not in row.answer], ids=name_of)
def test_what_llamaparse_answers_is_what_the_table_says(
    row: Row, services: MockServices, parser: LlamaCloudParser
) -> None:
    faults = faults_of(row)
    assert faults
    for fault in faults:
        services.control("llamacloud", "POST", "reset")
        services.script("llamacloud", times=1, operation="create_file", **fault)
        assert_is(row, raised(lambda: parser.submit(request_for())))


@pytest.mark.parametrize("row", [row for row in LLAMAPARSE if row.answer.startswith("A job")], ids=name_of)
def test_how_a_job_failed_is_what_the_table_says(row: Row, parser: LlamaCloudParser) -> None:
    outcome = ParseOutcome.ERROR if row.vendors_code else ParseOutcome.CANCELLED
    assert_is(row, parser.failure(ParseJob("pjb-1", outcome, row.vendors_code, None)))


def test_what_is_said_of_jobs_that_are_not_there_is_what_the_table_says(
    services: MockServices, parser: LlamaCloudParser
) -> None:
    by_answer = {row.answer: row for row in LLAMAPARSE}
    lost = by_answer.pop("`404` for a job or its result")
    at_work = by_answer.pop("`404` for the result of a job at work")
    assert_is(lost, raised(lambda: parser.status("pjb-unknown")))
    services.script("llamacloud", "never_finish", operation="run_job", times=1)
    job = parser.submit(request_for())
    assert_is(at_work, raised(lambda: parser.pages(job.job_id)))
    done = parser.submit(request_for())
    finished(parser, done.job_id)
    services.script("llamacloud", "status", operation="get_parse_job", status=404, times=2)
    assert_is(lost, raised(lambda: parser.pages(done.job_id)))


def test_what_we_say_before_a_call_waits_or_is_permanent_as_the_table_says() -> None:
    kinds = {
        kind.code: kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, PostponedError | errors.DocumentBudgetError)
    }
    del kinds[PostponedError.code]  # the root of those that wait
    assert {row.code for row in OURS} == set(kinds)
    for row in OURS:
        waits = issubclass(kinds[row.code], PostponedError)
        assert row.follows.startswith("waits" if waits else "permanent")
        assert kinds[row.code].uses_attempt is not waits


def test_every_code_of_the_adapters_is_in_the_tables() -> None:
    llamaparse = {code for _, code, _ in llamacloud_answers._REFUSALS.values()}
    llamaparse |= {code.lower() for code in llamacloud_answers._FAILURES}
    assert llamaparse <= {row.code for row in LLAMAPARSE}
    openai = {code for _, code in openai_embedder._REFUSALS.values()}
    openai |= openai_embedder._ACCOUNT_CODES | openai_embedder._CONTENT_CODES
    assert openai <= {row.code for row in OPENAI}
    for table, refusals in ((LLAMAPARSE, llamacloud_answers._REFUSALS), (OPENAI, openai_embedder._REFUSALS)):
        told = {status for row in table for status in row.statuses}
        assert {*refusals, 408, 429, 500, 502, 503, 504} <= told
