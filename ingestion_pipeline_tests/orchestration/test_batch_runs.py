"""One run over many documents: each has its own fate, and Dagster shows it."""

from typing import Any
from uuid import UUID

import pytest

from ingestion_pipeline.dagster_defs import assets
from ingestion_pipeline.dagster_defs.assets import CHECKS
from ingestion_pipeline.dagster_defs.bulk_events import EventWriter
from ingestion_pipeline.domain import State
from ingestion_pipeline.pipeline import groups
from ingestion_pipeline.pipeline.report import Asset
from ingestion_pipeline.remedies import remedy_for
from orchestration.faulty_ports import ForgetfulObjects
from orchestration.pipeline_under_test import PipelineUnderTest, document_text, failure_of, only, wait_for

GREEN = dict.fromkeys([asset.value for asset in Asset], "green")


def fates(pipeline: PipelineUnderTest, documents: dict[str, UUID]) -> dict[str, tuple[str, str | None]]:
    """State and error code of each document."""
    found = {name: pipeline.document(document_id) for name, document_id in documents.items()}
    return {name: (document.state.value, document.last_error_code) for name, document in found.items()}


def test_bad_documents_of_a_batch_fail_at_their_stage_and_the_others_are_complete(pipeline: PipelineUnderTest) -> None:
    pipeline.mocks.script(
        "llamacloud", "job_failure", operation="run_job", match="protected.md", code="PDF_IS_PROTECTED"
    )
    pipeline.mocks.script("openai", "status", match="refused", times=None, status=400, message="not this")
    documents = {
        "good": pipeline.upload(document_text("good")),
        "better": pipeline.upload(document_text("better")),
        "protected": pipeline.upload(document_text("protected"), "protected.md"),
        "tampered": pipeline.upload(document_text("tampered")),
        "refused": pipeline.upload(document_text("refused")),
    }
    pipeline.services.objects.put(pipeline.document(documents["tampered"]).object_key, b"# Something else")

    submitted = only(pipeline.submit())
    pipeline.finish_parsing()
    processed = only(pipeline.process())

    assert fates(pipeline, documents) == {
        "good": ("complete", None),
        "better": ("complete", None),
        "protected": ("failed_parse", "pdf_is_protected"),
        "tampered": ("failed_parse", "integrity_mismatch"),
        "refused": ("failed_embedding", "request_rejected"),
    }
    nothing = dict.fromkeys(GREEN, "")
    assert {name: pipeline.colours(document_id) for name, document_id in documents.items()} == {
        "good": GREEN,
        "better": GREEN,
        "protected": {**nothing, "raw_upload": "green", "parsed": "red"},
        "tampered": {**nothing, "raw_upload": "red"},
        "refused": {**GREEN, "embeddings": "red", "finalized": ""},
    }
    for run, names in ((submitted, {"tampered"}), (processed, {"protected", "refused"})):
        description, named = failure_of(run)
        assert set(named) == {str(documents[name]) for name in names}
        assert f"{len(names)} of " in description
    reason = failure_of(processed)[1][str(documents["refused"])]
    assert "embeddings: request_rejected: OpenAI answers 400" in reason


@pytest.mark.parametrize(
    ("code", "ours"), [("PDF_IS_PROTECTED", "pdf_is_protected"), ("NO_DATA_FOUND_IN_FILE", "no_data_found_in_file")]
)
def test_a_failed_partition_says_code_message_and_remedy(pipeline: PipelineUnderTest, code: str, ours: str) -> None:
    pipeline.mocks.script("llamacloud", "job_failure", operation="run_job", code=code)
    document_id = pipeline.upload(document_text("report"))
    pipeline.complete()
    observed = pipeline.observed(Asset.PARSED, document_id)
    assert observed["code"] == ours
    assert observed["message"] == pipeline.document(document_id).last_error_message
    assert observed["remedy"] == remedy_for(ours)


def test_every_check_of_every_stage_is_recorded_for_each_partition(pipeline: PipelineUnderTest) -> None:
    documents = {pipeline.upload(document_text(title)) for title in ("one", "two")}
    pipeline.complete()
    for asset, checks in CHECKS.items():
        for check in checks:
            assert pipeline.verdicts(asset, check) == dict.fromkeys(documents, True), check


def test_a_blocking_check_that_fails_stops_its_document_and_no_other(pipeline: PipelineUnderTest) -> None:
    good, bad = pipeline.upload(document_text("good")), pipeline.upload(document_text("bad"))
    pipeline.submit()
    pipeline.finish_parsing()
    forgetful = ForgetfulObjects(pipeline.services.objects, f"{bad}.md")
    assert not only(pipeline.with_services(objects=forgetful).process()).success

    assert pipeline.verdicts(Asset.PARSED, "text_hash_matches") == {good: True, bad: False}
    assert pipeline.verdicts(Asset.CHUNKS, "chunks_cover_text") == {good: True}
    assert fates(pipeline, {"good": good, "bad": bad}) == {
        "good": ("complete", None),
        "bad": ("failed_parse", "check_failed"),
    }
    assert pipeline.colours(bad)["parsed"] == "red"
    assert pipeline.colours(good) == GREEN


def test_a_document_without_text_fails_as_such_and_is_not_embedded(pipeline: PipelineUnderTest) -> None:
    pipeline.mocks.script("llamacloud", "partial", operation="run_job", pages=[1])
    document_id = pipeline.upload(document_text("scan"))
    pipeline.complete()
    document = pipeline.document(document_id)
    assert (document.state, document.last_error_code) == (State.FAILED_PARSE, "no_text")
    assert pipeline.observed(Asset.PARSED, document_id)["remedy"] == remedy_for("no_text")
    assert pipeline.texts_embedded() == 0


def test_materialisations_tell_an_operator_what_was_done(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("manual"), "manual.md")
    pipeline.complete()
    told = {asset: pipeline.materialised(asset, document_id) for asset in Asset}
    assert {metadata["filename"] for metadata in told.values()} == {"manual.md"}
    assert told[Asset.RAW_UPLOAD]["sha256"] == pipeline.document(document_id).sha256.hex()
    assert "Paragraph 0 of manual" in told[Asset.PARSED]["preview"]
    assert told[Asset.CHUNKS]["chunks"] == told[Asset.EMBEDDINGS]["vectors"] == told[Asset.FINALIZED]["chunks"] == 1
    assert told[Asset.EMBEDDINGS]["tokens"] > 0
    assert told[Asset.EMBEDDINGS]["cost_usd"] > 0


def test_the_batch_row_notes_its_end_and_how_many_failed(pipeline: PipelineUnderTest) -> None:
    pipeline.mocks.script("llamacloud", "job_failure", operation="run_job", match="bad.md", code="PDF_IS_BROKEN")
    pipeline.upload(document_text("good"))
    pipeline.upload(document_text("bad"), "bad.md")
    pipeline.complete()
    batches = pipeline.rows(
        "select lane, document_count, failed_count, finished_at from upload_pipeline.ingestion_batches"
    )
    assert {(row["lane"], row["document_count"], row["failed_count"]) for row in batches} == {
        ("submit", 2, 0),
        ("process", 2, 1),
    }
    assert all(row["finished_at"] for row in batches)


def test_documents_go_on_while_dagster_is_told_of_others(
    pipeline: PipelineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "GROUP_DOCUMENTS", 1)
    monkeypatch.setattr(assets, "PORTION_REPORTS", 1)
    for number in range(2 * groups.GROUPS_IN_FLIGHT + 2):
        pipeline.upload(document_text(f"number {number}"))
    pipeline.submit()
    pipeline.finish_parsing()
    promoted: list[int] = []
    write = EventWriter.write

    def promoted_documents() -> int:
        [row] = pipeline.rows("select count(*) as documents from upload_pipeline.upload_jobs where state = 'complete'")
        return int(row["documents"])

    def write_late(writer: EventWriter, events: Any) -> None:
        """The first time, which tells what earlier runs did, when as many groups are done as may be ahead."""
        if not promoted:
            ahead = 2 * groups.GROUPS_IN_FLIGHT
            wait_for(lambda: promoted_documents() == ahead, "documents are complete meanwhile")
        promoted.append(promoted_documents())
        write(writer, events)

    monkeypatch.setattr(EventWriter, "write", write_late)
    assert only(pipeline.process()).success
    assert (promoted[0], promoted[-1]) == (2 * groups.GROUPS_IN_FLIGHT, 2 * groups.GROUPS_IN_FLIGHT + 2)
