"""What an operator meets: webhooks that fail, mending in Dagster, the demo, a second start."""

import json
import time

from running_stack import RunningStack, wait_for

from e2e.dagster_graphql import ASSETS, backfill, materialise, partition_keys, run_status, wait_for_colours

GREEN = dict.fromkeys(ASSETS, "green")


def upload_text(stack: RunningStack, name: str) -> str:
    """A Markdown document whose text tells its name; returns its id."""
    text = f"# {name}\n\nThe text of the document {name}, which no other document has.\n"
    document_id: str = stack.upload(f"{name}.md", text.encode(), "text/markdown")["document_id"]
    return document_id


def script(stack: RunningStack, service: str, kind: str, **fields: object) -> None:
    """A fault: when it strikes, and what it is."""
    when = {name: fields.pop(name) for name in ("operation", "match", "times") if name in fields}
    stack.script_fault(service, when | {"fault": {"kind": kind, **fields}})


def parse_job_of(stack: RunningStack, document_id: str) -> str:
    """The parse job of a document, once it has one."""

    def submitted() -> str | None:
        [row] = stack.rows("select parse_job_id from upload_pipeline.upload_jobs where document_id = %s", document_id)
        return row["parse_job_id"]

    return wait_for(submitted, "the document is at the parser", 30) or ""


def webhooks_of(stack: RunningStack, job_id: str) -> int:
    """How many events of a parse job arrived."""
    [row] = stack.rows(
        "select count(*) as arrived from upload_pipeline.webhook_deliveries where parse_job_id = %s", job_id
    )
    return int(row["arrived"])


def test_a_document_whose_webhooks_are_lost_is_complete_all_the_same(stack: RunningStack) -> None:
    script(stack, "llamaparse", "webhook_lost", operation="send_webhook", match="unannounced.md", times=None)
    document_id = upload_text(stack, "unannounced")
    assert stack.settled(document_id)["state"] == "complete"
    assert webhooks_of(stack, parse_job_of(stack, document_id)) == 0


def test_a_forged_webhook_is_refused_and_has_no_effect(stack: RunningStack) -> None:
    script(stack, "llamaparse", "never_finish", operation="run_job", match="forged.md", times=1)
    document_id = upload_text(stack, "forged")
    job_id = parse_job_of(stack, document_id)
    wait_for(lambda: stack.document(document_id)["state"] == "parse_queued", "the document waits for the parser")
    known = webhooks_of(stack, job_id)
    event = {"event_id": "evt-1", "event_type": "parse.success", "timestamp": time.time(), "data": {"job_id": job_id}}
    for signature in ({}, {"LC-Signature": "sha256=" + 64 * "0"}):
        answer = stack.send_webhook(json.dumps(event).encode(), signature)
        assert (answer.status_code, answer.json()["code"]) == (401, "bad_signature")
    assert webhooks_of(stack, job_id) == known
    assert stack.document(document_id)["state"] == "parse_queued"


def test_failed_documents_turn_green_by_a_backfill_once_their_cause_is_gone(stack: RunningStack) -> None:
    script(stack, "openai", "status", match="document unpaid", times=2, status=401)
    unpaid = [upload_text(stack, name) for name in ("unpaid first", "unpaid second")]
    for document_id in unpaid:
        assert stack.settled(document_id)["last_error"]["code"] == "invalid_api_key"
        wait_for_colours(stack, document_id, {**GREEN, "embeddings": "red", "finalized": ""})
    stack.clear_faults("openai")

    backfill(stack, unpaid)
    for document_id in unpaid:
        wait_for_colours(stack, document_id, GREEN, seconds=90)
        assert stack.document(document_id)["state"] == "complete"


def test_a_document_that_could_not_be_parsed_turns_green_by_materialising_its_partition(stack: RunningStack) -> None:
    script(stack, "llamaparse", "job_failure", operation="run_job", match="unread.md", times=1, code="PDF_IS_BROKEN")
    document_id = upload_text(stack, "unread")
    assert stack.settled(document_id)["state"] == "failed_parse"
    wait_for_colours(stack, document_id, {**dict.fromkeys(ASSETS, ""), "raw_upload": "green", "parsed": "red"})

    run_id = materialise(stack, document_id)
    wait_for(lambda: run_status(stack, run_id) in ("SUCCESS", "FAILURE"), "the run is over")
    assert run_status(stack, run_id) == "SUCCESS"
    assert stack.settled(document_id)["state"] == "complete"
    wait_for_colours(stack, document_id, GREEN)


def test_an_outage_of_the_embedder_is_waited_out_without_red(stack: RunningStack) -> None:
    script(stack, "openai", "status", match="document patient", times=1, status=503, retry_after=3)
    document_id = upload_text(stack, "patient")
    assert stack.settled(document_id)["state"] == "complete"
    history = stack.document(document_id)["history"]
    assert [event["error_code"] for event in history if event["error_code"]] == ["vendor_unavailable"]
    wait_for_colours(stack, document_id, GREEN)


def test_a_cancelled_document_leaves_parser_and_dagster_and_a_retry_brings_it_to_its_end(stack: RunningStack) -> None:
    def cancelled_jobs() -> int:
        return int(stack.calls("llamaparse")["operations"].get("cancel_parse_job", {"calls": 0})["calls"])

    script(stack, "llamaparse", "never_finish", operation="run_job", match="stopped.md", times=1)
    document_id, before = upload_text(stack, "stopped"), cancelled_jobs()
    parse_job_of(stack, document_id)
    wait_for(lambda: document_id in partition_keys(stack, "raw_upload"), "Dagster has the partition")

    cancelled = stack.ingest("cancel", document_id)
    assert cancelled.returncode == 0, cancelled.stdout + cancelled.stderr
    wait_for(lambda: document_id not in partition_keys(stack, "raw_upload"), "Dagster forgets the partition")
    assert (stack.document(document_id)["state"], cancelled_jobs()) == ("cancelled", before + 1)

    retried = stack.ingest("retry", document_id)
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert stack.settled(document_id)["state"] == "complete"
    wait_for_colours(stack, document_id, GREEN)


def test_the_demo_succeeds_against_the_running_stack(stack: RunningStack) -> None:
    shown = stack.ingest("demo")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "the demo succeeded" in " ".join(shown.stdout.split())


def test_a_second_start_on_the_same_folder_is_refused(stack: RunningStack) -> None:
    refused = stack.ingest("up", seconds=30)
    assert refused.returncode != 0
    assert "another `ingest up` is running" in " ".join((refused.stdout + refused.stderr).split())
    assert stack.api("GET", "/readyz").status_code == 200
