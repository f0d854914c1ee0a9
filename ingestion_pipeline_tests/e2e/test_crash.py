"""`kill -9` of everything while documents are in every state, and an orderly end."""

import contextlib
import signal
from collections import Counter

import psutil
import pytest
from running_stack import RunningStack, wait_for

CHUNKS = (
    "select document_id::text as document_id, count(*)::integer as chunks, count(distinct ordinal)::integer as places,"
    " max(ordinal) + 1 as expected from upload_pipeline.document_chunks group by document_id"
)
STORED_VECTORS = "select count(*) as vectors from upload_pipeline.document_vectors"
BUSY = (
    "select 1 from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() and datname = current_database()"
)


pytestmark = pytest.mark.timeout(600)  # the stack starts twice


@pytest.fixture
def running(own_stack: RunningStack) -> RunningStack:
    """A stack of these tests' own, up."""
    if own_stack.process is None or own_stack.process.poll() is not None:
        own_stack.start()
    return own_stack


def upload_book(stack: RunningStack, name: str) -> str:
    """A text of several chunks that no other document has; returns the document's id."""
    text = "\n\n".join(f"Sentence {number} of the book {name} is about chapter {number}." for number in range(200))
    document_id: str = stack.upload(f"{name}.md", text.encode(), "text/markdown")["document_id"]
    return document_id


def states(stack: RunningStack) -> Counter[str]:
    return Counter(stack.api("GET", "/documents/summary").json()["states"])


def command(process: psutil.Process) -> list[str]:
    """With which it was started; nothing if it is gone."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def freeze(stack: RunningStack) -> None:
    """Stop the clock of the workers and wait until PostgreSQL has nothing to do, so that what it has can be counted."""
    for process in stack.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # short-lived ones come and go
            if "postgres" not in process.name() and "mock_services" not in " ".join(process.cmdline()):
                process.suspend()
    wait_for(lambda: not stack.rows(BUSY), "PostgreSQL is idle", 10)


def test_after_kill_9_of_every_process_nothing_is_lost_or_done_twice(running: RunningStack) -> None:
    stack = running
    stack.script_fault(
        "llamaparse",
        {"operation": "run_job", "match": "slow", "times": None, "fault": {"kind": "parse_delay", "seconds": 25}},
    )
    stack.script_fault("openai", {"match": "the book held", "times": None, "fault": {"kind": "latency", "seconds": 60}})
    documents = [upload_book(stack, f"early {number}") for number in range(3)]
    for document_id in documents:
        assert stack.settled(document_id)["state"] == "complete"
    documents += [upload_book(stack, f"held {number}") for number in range(3)]
    wait_for(lambda: stack.calls("openai")["in_flight"] > 0, "an embedding request is in flight", 90)
    documents += [upload_book(stack, f"slow {number}") for number in range(3)]
    wait_for(lambda: states(stack)["parse_queued"] > 0, "a document waits for the parser")
    documents += [upload_book(stack, f"late {number}") for number in range(3)]

    freeze(stack)
    [before] = stack.rows(STORED_VECTORS)
    [open_jobs] = stack.rows("select count(*) as jobs from upload_pipeline.upload_jobs where lane is not null")
    assert open_jobs["jobs"] > 0
    assert stack.kill_everything() > 8
    stack.start()

    for document_id in documents:
        assert stack.settled(document_id, seconds=180)["state"] == "complete"
    served = {row["document_id"]: row for row in stack.rows(CHUNKS)}
    assert set(served) == set(documents)
    for row in served.values():
        assert row["chunks"] == row["places"] == row["expected"] > 1
    [after] = stack.rows(STORED_VECTORS)
    chunks = sum(row["chunks"] for row in served.values())
    assert after["vectors"] == chunks
    assert stack.calls("openai")["inputs"] == chunks - before["vectors"], "what was stored is not paid for again"


def test_runs_of_a_code_server_that_is_told_to_stop_give_back_what_they_have(running: RunningStack) -> None:
    running.script_fault("openai", {"match": "the book slow", "fault": {"kind": "latency", "seconds": 60}})
    document_id = upload_book(running, "slow answer")
    wait_for(lambda: running.calls("openai")["in_flight"] > 0, "an embedding request is in flight", 90)
    [code_server] = [each for each in running.processes() if command(each)[-6:-4] == ["serve", "code"]]
    code_server.terminate()  # alone, as in a container: it has to tell its runs
    job = "select claimed_by, attempt, last_error_code from upload_pipeline.upload_jobs where document_id = %s"
    [given_back] = wait_for(
        lambda: [row for row in running.rows(job, document_id) if not row["claimed_by"]], "it is given back", 30
    )
    assert (given_back["attempt"], given_back["last_error_code"]) == (0, None), "before its claim expired"


def test_sigterm_ends_every_process(running: RunningStack) -> None:
    started = running.processes()
    assert len(started) > 8
    assert running.process is not None
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0
    assert psutil.wait_procs(started, timeout=5)[1] == []
    assert running.processes() == []
