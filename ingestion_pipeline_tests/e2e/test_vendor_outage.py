"""Both vendors go down in the middle of the work and come back: what is called meanwhile, what it costs, who helps.

The outage lasts five seconds more than it takes to be noticed; INGEST_TEST_OUTAGE_SECONDS=300 makes it five minutes.
`pytest -rP --log-level=INFO` shows the figures.
"""

import logging
import os
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from running_stack import RunningStack, wait_for

OUTAGE_SECONDS = float(os.environ.get("INGEST_TEST_OUTAGE_SECONDS", "5"))
VENDORS = {"llamacloud": "llamaparse", "openai": "openai"}  # as the ledger names them, and their mocks
# Calls that failed since a moment, each with the time at which it began, and whether its vendor was paused by then and
# all processes had heard of it, which takes them a second; the first probe comes after two.
FAILED_CALLS = """
    select
        u.at - make_interval(secs => u.seconds) as began, u.at as ended,
        u.at - make_interval(secs => u.seconds) > b.since + interval '1.5 seconds' as was_paused
    from upload_pipeline.provider_usage as u
    inner join upload_pipeline.vendor_breakers as b on b.vendor = u.provider
    where u.provider = %s and u.outcome <> 'ok' and u.at > %s order by began
"""
ATTEMPTS = "select document_id::text, attempt from upload_pipeline.upload_jobs where document_id = any(%s::uuid[])"

log = logging.getLogger(__name__)
pytestmark = pytest.mark.timeout(300 + 2 * OUTAGE_SECONDS)


def upload(stack: RunningStack, name: str) -> str:
    """A text of a few chunks that no other document has; returns its id."""
    text = "\n\n".join(f"Gauge {number} of the station {name} is read at noon." for number in range(60))
    document_id: str = stack.upload(f"{name}.md", text.encode(), "text/markdown")["document_id"]
    return document_id


def now(stack: RunningStack) -> datetime:
    [row] = stack.rows("select clock_timestamp() as now")
    moment: datetime = row["now"]
    return moment


def breakers(stack: RunningStack) -> set[str]:
    """In which states the breakers of both vendors are."""
    return {vendor["state"] for vendor in stack.api("GET", "/vendors").json()["vendors"]}


def counted(stack: RunningStack, figure: str) -> dict[str, int]:
    """What the mock of each vendor counted: calls, inputs (jobs made, texts embedded), distinct_inputs."""
    return {vendor: int(stack.calls(mock)[figure]) for vendor, mock in VENDORS.items()}


def done_twice(stack: RunningStack) -> dict[str, int]:
    """Of each vendor how much was asked for that it had been asked for before, and had done."""
    inputs, distinct = counted(stack, "inputs"), counted(stack, "distinct_inputs")
    return {vendor: inputs[vendor] - distinct[vendor] for vendor in VENDORS}


def attempts(stack: RunningStack, documents: Sequence[str]) -> dict[str, int]:
    return {row["document_id"]: row["attempt"] for row in stack.rows(ATTEMPTS, list(documents))}


def fail(stack: RunningStack, service: str, fault: dict[str, Any], **when: Any) -> None:
    stack.script_fault(service, {"times": None, **when, "fault": fault})


def test_an_outage_of_both_vendors_is_waited_out_without_help(stack: RunningStack) -> None:
    began, twice_before, jobs_before = now(stack), done_twice(stack), counted(stack, "inputs")["llamacloud"]
    fail(stack, "llamaparse", {"kind": "parse_delay", "seconds": 3}, operation="run_job", match="under way")
    documents = [upload(stack, f"early {number}") for number in range(2)]
    for document_id in documents:
        assert stack.settled(document_id)["state"] == "complete"
    documents += [upload(stack, f"under way {number}") for number in range(2)]
    fail(stack, "openai", {"kind": "cut"})
    half_way = [upload(stack, f"half-way {number}") for number in range(3)]
    documents += half_way
    wait_for(
        lambda: {stack.document(each)["state"] for each in half_way} == {"embedding_in_progress"}, "vectors are due"
    )
    # One more job is made though nobody hears of it; from then on both answer errors or not at all.
    fail(stack, "llamaparse", {"kind": "status", "status": 504, "when": "after"}, operation="create_parse_job",
         match="unheard", times=1)  # fmt: skip
    documents.append(upload(stack, "unheard"))
    wait_for(lambda: counted(stack, "inputs")["llamacloud"] == jobs_before + len(documents), "all are at the parser")
    fail(stack, "llamaparse", {"kind": "status", "status": 503})
    documents += [upload(stack, f"late {number}") for number in range(4)]
    calls_before, down_since = counted(stack, "calls"), time.monotonic()
    wait_for(lambda: not breakers(stack) & {"closed"}, "both breakers are open", 60)
    attempts_before = attempts(stack, documents)
    time.sleep(OUTAGE_SECONDS)  # the outage itself
    wait_for(
        lambda: all(any(call["was_paused"] for call in stack.rows(FAILED_CALLS, vendor, began)) for vendor in VENDORS),
        "both were tested meanwhile",
    )
    assert not breakers(stack) & {"closed"}
    calls = {vendor: count - calls_before[vendor] for vendor, count in counted(stack, "calls").items()}
    attempts_after = attempts(stack, documents)
    failed = {vendor: stack.rows(FAILED_CALLS, vendor, began) for vendor in VENDORS}
    for mock in VENDORS.values():
        stack.clear_faults(mock)
    up_since = time.monotonic()

    for document_id in documents:
        assert stack.settled(document_id, 120 + OUTAGE_SECONDS)["state"] == "complete"
    log.info("down for %.0f s, calls meanwhile: %s", up_since - down_since, calls)
    log.info("all complete %.1f s after the vendors were back", time.monotonic() - up_since)
    used_before, used_after = sum(attempts_before.values()), sum(attempts_after.values())
    log.info("attempts used up when both were paused: %d, at the end: %d", used_before, used_after)
    # A call that was made is looked after by the next one, which is why the first of a document is counted.
    for document_id, before in attempts_before.items():
        assert attempts_after[document_id] <= max(before, 1)
    for vendor, calls_of_vendor in failed.items():
        probes = [call for call in calls_of_vendor if call["was_paused"]]
        log.info("%s: %d calls failed, %d of them probes", vendor, len(calls_of_vendor), len(probes))
        assert all(one["ended"] <= other["began"] for one, other in pairwise(probes)), "one probe at a time"
    assert done_twice(stack) == twice_before
    assert counted(stack, "inputs")["llamacloud"] == jobs_before + len(documents)
    assert breakers(stack) == {"closed"}
