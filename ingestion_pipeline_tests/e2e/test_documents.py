"""Documents of every type through the running stack: from POST to search, and what becomes of bad ones."""

import json
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
import requests
from running_stack import RunningStack, wait_for

from e2e.dagster_graphql import ASSETS, observation, wait_for_colours
from e2e.sample_files import PDF, broken_pdf, image_only_pdf, one_of_each_type, protected_pdf
from ingestion_pipeline.domain import HAPPY_PATH
from ingestion_pipeline.remedies import remedy_for

BAD = {
    "protected.pdf": (protected_pdf("A secret"), PDF, "pdf_is_protected"),
    "broken.pdf": (broken_pdf(), PDF, "pdf_is_broken"),
    "scan.pdf": (image_only_pdf(), PDF, "no_data_found_in_file"),
    "blank.txt": (b" \n\t\n" * 40, "text/plain", "no_data_found_in_file"),
}


@pytest.fixture(scope="module")
def uploaded(stack: RunningStack) -> dict[str, str]:
    """All of them at once, by name: ids."""
    files = {name: (data, kind) for name, (data, kind, _) in (one_of_each_type() | BAD).items()}
    return {name: stack.upload(name, data, kind)["document_id"] for name, (data, kind) in files.items()}


@pytest.mark.parametrize("name", list(one_of_each_type()))
def test_a_document_of_each_type_is_complete_after_all_states_in_order(
    stack: RunningStack, uploaded: dict[str, str], name: str
) -> None:
    document = stack.settled(uploaded[name])
    assert document["state"] == "complete", document["last_error"]
    moves = [(event["from_state"], event["to_state"]) for event in document["history"]]
    assert moves == [(None, "uploaded"), *((a.value, b.value) for a, b in pairwise(HAPPY_PATH))]
    assert document["progress"]["chunks_embedded"] == document["progress"]["chunks_total"] >= 1


@pytest.mark.parametrize("name", list(one_of_each_type()))
def test_search_finds_a_sentence_of_each_document_first(
    stack: RunningStack, uploaded: dict[str, str], name: str
) -> None:
    assert stack.settled(uploaded[name])["state"] == "complete"
    sentence = one_of_each_type()[name][2]
    first = stack.api("GET", "/search", params={"q": sentence, "limit": 1}).json()["results"][0]
    assert first["document_id"] == uploaded[name]
    assert sentence in first["text"]


def test_dagster_shows_every_asset_of_a_complete_document_as_materialised(
    stack: RunningStack, uploaded: dict[str, str]
) -> None:
    for name in one_of_each_type():
        stack.settled(uploaded[name])
        wait_for_colours(stack, uploaded[name], dict.fromkeys(ASSETS, "green"))


@pytest.mark.parametrize("name", list(BAD))
def test_a_document_that_cannot_be_parsed_says_why_in_api_command_line_and_dagster(
    stack: RunningStack, uploaded: dict[str, str], name: str
) -> None:
    code = BAD[name][2]
    document = stack.settled(uploaded[name])
    assert (document["state"], document["last_error"]["code"]) == ("failed_parse", code)
    assert document["last_error"]["remedy"] == remedy_for(code)

    shown = stack.ingest("status", uploaded[name])
    assert shown.returncode == 0, shown.stderr
    words = shown.stdout.split()
    assert "failed_parse" in shown.stdout
    assert code in shown.stdout
    assert set(remedy_for(code).split()) <= set(words), shown.stdout

    wait_for_colours(stack, uploaded[name], {**dict.fromkeys(ASSETS, ""), "raw_upload": "green", "parsed": "red"})
    seen = observation(stack, "parsed", uploaded[name])
    assert (seen["code"], seen["remedy"]) == (code, remedy_for(code))


def test_nothing_of_the_documents_is_stuck(stack: RunningStack, uploaded: dict[str, str]) -> None:
    for document_id in uploaded.values():
        stack.settled(document_id)
    left = stack.rows(
        "select document_id from upload_pipeline.upload_jobs where document_id = any(%s::uuid[])"
        " and state not in ('complete', 'failed_parse')",
        list(uploaded.values()),
    )
    assert left == []


def test_a_correlation_id_leads_from_the_upload_through_sensors_runs_and_vendor_calls(stack: RunningStack) -> None:
    correlation_id = str(uuid4())
    key = (stack.data_dir / "keys" / "api_key").read_text()
    uploaded = requests.post(
        f"{stack.addresses['api']}/documents",
        headers={"Authorization": f"Bearer {key}", "X-Correlation-ID": correlation_id},
        files={"file": ("traced.md", b"# Traced\n\nWhat happens to this text can be followed.\n", "text/markdown")},
        timeout=60,
    )
    document_id = uploaded.json()["document_id"]
    assert stack.settled(document_id)["state"] == "complete"

    def lines(service: str) -> list[dict[str, Any]]:
        log = (stack.data_dir / "logs" / f"{service}.log").read_text()
        return [json.loads(line) for line in log.splitlines() if correlation_id in line and line.startswith("{")]

    assert {line["event"] for line in lines("api")} == {"upload", "request"}
    wait_for(lambda: any(line["event"] == "document settled" for line in lines("code-server")), "the end is logged")
    worker = lines("code-server")
    assert [line["lane"] for line in worker if line["event"] == "claimed"] == ["submit", "process"]
    calls = {line["operation"]: line["call_id"] for line in worker if line["event"] == "vendor call"}
    assert set(calls) == {"submit", "pages", "embed"}
    [embedded] = stack.rows(
        "select call_id::text, correlation_id::text from upload_pipeline.provider_usage"
        " where document_id = %s and operation = 'embed'",
        document_id,
    )
    assert embedded == {"call_id": calls["embed"], "correlation_id": correlation_id}
    jobs = requests.get(
        f"{stack.addresses['llamaparse']}/api/v2/parse", headers={"Authorization": "Bearer llx-mock"}, timeout=10
    ).json()["items"]
    told = {job["user_metadata"]["document_id"]: job["user_metadata"]["correlation_id"] for job in jobs}
    assert told[document_id] == correlation_id
