"""`ingest audit` beside the whole stack at work, and a document that it sends back into it."""

import json
from typing import Any

from running_stack import RunningStack


def audit(stack: RunningStack, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit status and the report."""
    done = stack.ingest("audit", "--json", *options)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_an_audit_beside_the_stack_at_work_is_quiet_and_what_it_mends_goes_through_again(stack: RunningStack) -> None:
    texts = [f"# Audited {number}\n\nThe text of document {number}.\n".encode() for number in range(5)]
    uploaded = [stack.upload("audited.md", text, "text/markdown")["document_id"] for text in texts]
    status, report = audit(stack)
    assert (status, report["findings"]) == (0, [])
    assert report["examined"]["documents"] >= len(uploaded)
    assert all(stack.settled(document_id)["state"] == "complete" for document_id in uploaded)

    [row] = stack.rows("select parsed_key from upload_pipeline.documents where document_id = %s", uploaded[0])
    (stack.data_dir / "objects" / row["parsed_key"]).unlink()
    status, report = audit(stack, "--fix")
    assert [(finding["code"], finding["mended"]) for finding in report["findings"]] == [("text_missing", 1)]
    assert status == 0
    mended = stack.settled(uploaded[0])
    assert mended["state"] == "complete"
    assert [event["actor"] for event in mended["history"]].count("audit") == 1
    status, report = audit(stack)
    assert (status, report["findings"]) == (0, [])
