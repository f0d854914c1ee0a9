"""An operator mends failed documents in the Dagster UI, by clicking in a real browser.

Seven of DOCUMENTS are bad, in seven ways. INGEST_TEST_DOCUMENTS sets another number, and INGEST_TEST_ARTIFACTS a folder
that keeps the screenshots and figures.json: with 1000 it is the demonstration that among many each has its own fate.
"""

import json
import os
import time
from itertools import pairwise
from pathlib import Path

from running_stack import RunningStack, wait_for

from e2e.browser import dagster_ui
from e2e.dagster_graphql import newest_backfill, partition_keys, partitions, runs_of_backfill
from e2e.sample_files import PDF, protected_pdf

DOCUMENTS = int(os.environ.get("INGEST_TEST_DOCUMENTS", "30"))
MIDDLE = DOCUMENTS // 2
# By the place in the order of uploads: neighbours and loners, so that a backfill needs several runs.
AT_THE_PARSER = {3: "PDF_IS_BROKEN", 4: "UNSUPPORTED_FILE_TYPE", MIDDLE: "TOO_MANY_PAGES"}
AT_THE_EMBEDDER = {9: "request_rejected", MIDDLE + 1: "context_length_exceeded"}
FILES = {
    MIDDLE + 2: (protected_pdf("A secret"), PDF, "pdf_is_protected"),
    DOCUMENTS - 4: (b" \n\t\n" * 40, "text/plain", "no_data_found_in_file"),
}
MENDABLE = (*AT_THE_PARSER, *AT_THE_EMBEDDER)


def upload_all(stack: RunningStack) -> list[str]:
    """Ids of the documents, in the order of uploads; what fails fails until the mocks' faults are cleared."""
    for place, code in AT_THE_PARSER.items():
        fault = {"kind": "job_failure", "code": code}
        body = {"operation": "run_job", "match": f"clicked-{place}.md", "times": None, "fault": fault}
        stack.script_fault("llamaparse", body)
    for place, code in AT_THE_EMBEDDER.items():  # refusals of a text: the others of its request are embedded without it
        fault = {"kind": "status", "status": 400, "code": code}
        stack.script_fault("openai", {"match": f"number {place} of those clicked", "times": None, "fault": fault})
    uploaded = []
    for place in range(DOCUMENTS):
        text = f"# Clicked\n\nThis is number {place} of those clicked, and no other has its text.\n"
        data, kind, _ = FILES.get(place, (text.encode(), "text/markdown", ""))
        uploaded.append(
            stack.upload(f"clicked-{place}.md" if kind != PDF else "clicked.pdf", data, kind)["document_id"]
        )
    return uploaded


def ranges(stack: RunningStack, chosen: set[str]) -> int:
    """Into how many unbroken ranges of Dagster's partitions they fall: it starts one run of a backfill for each."""
    marks = [False, *(key in chosen for key in partition_keys(stack, "finalized"))]
    return sum(here and not before for before, here in pairwise(marks))


def test_failed_documents_are_mended_by_clicking_in_the_ui(stack: RunningStack, tmp_path: Path) -> None:
    started = time.monotonic()
    uploaded = upload_all(stack)
    codes = {place: code.lower() for place, code in (AT_THE_PARSER | AT_THE_EMBEDDER).items()}
    codes |= {place: code for place, (_, _, code) in FILES.items()}
    for place, document_id in enumerate(uploaded):
        document = stack.settled(document_id)
        assert (document["last_error"] or {}).get("code") == codes.get(place), document
    settled = time.monotonic()
    unparsed = {uploaded[place] for place in (*AT_THE_PARSER, *FILES)}
    unembedded = {uploaded[place] for place in AT_THE_EMBEDDER}
    wait_for(lambda: unparsed <= failed(stack, "parsed"), "Dagster shows what could not be parsed")
    wait_for(lambda: unembedded <= failed(stack, "embeddings"), "Dagster shows what could not be embedded")

    with dagster_ui(stack.addresses["dagster ui"], tmp_path) as ui:
        red = {asset: failed(stack, asset) for asset in ("parsed", "embeddings")}
        all_passed = ui.look_at_lineage("before-lineage")
        assert all(passed.split()[0] == passed.split()[2] for passed in all_passed), all_passed
        for asset, keys in red.items():
            assert ui.look_at_partitions(asset, f"before-{asset}")["Failed"] == len(keys)
        assert ui.look_at_failed("parsed", "before-failed") == len(red["parsed"])
        ui.read_events("parsed", uploaded[3], codes[3], "before-reason")
        before = ui.look_at_partitions("finalized", "before-finalized")

        stack.clear_faults("llamaparse")
        stack.clear_faults("openai")
        chosen = red["parsed"] | red["embeddings"]
        launched = time.monotonic()
        ui.materialise_failed(len(chosen), "launch")
        for place in MENDABLE:
            wait_for(lambda place=place: stack.document(uploaded[place])["state"] == "complete", codes[place], 120)
        left = {uploaded[place] for place in FILES}
        wait_for(lambda: failed(stack, "parsed") & set(uploaded) == left, "what can't be mended is red again", 120)
        wait_for(lambda: newest_backfill(stack)["status"].startswith("COMPLETED"), "the backfill is over", 120)

        mended = time.monotonic()
        runs = runs_of_backfill(stack, newest_backfill(stack)["id"])
        assert len(runs) == ranges(stack, chosen)
        assert ui.look_at_lineage("after-lineage") == all_passed
        assert ui.look_at_partitions("parsed", "after-parsed")["Failed"] == len(failed(stack, "parsed"))
        assert ui.look_at_partitions("embeddings", "after-embeddings")["Failed"] == 0
        after = ui.look_at_partitions("finalized", "after-finalized")
        assert after["Materialized"] == before["Materialized"] + len(MENDABLE)
        ui.keep(
            "figures.json",
            json.dumps(
                {
                    "seconds until all are settled": settled - started,
                    "seconds from launch to the end of the backfill": mended - launched,
                    "runs of the backfill": len(runs),
                    "failed before": {asset: len(keys) for asset, keys in red.items()},
                    "partitions of finalized": {"before": before, "after": after},
                },
                indent=2,
            ),
        )


def failed(stack: RunningStack, asset: str) -> set[str]:
    """The documents whose partition of an asset is red."""
    return set(partitions(stack, asset)["failedPartitions"])
