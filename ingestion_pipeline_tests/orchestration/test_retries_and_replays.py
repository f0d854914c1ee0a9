"""A failure that may pass: waiting, trying again, giving up, and an operator's replay once its cause is gone."""

import dagster as dg

from ingestion_pipeline.dagster_defs.assets import CHECKS, START_OVER_TAG
from ingestion_pipeline.domain import State
from ingestion_pipeline.pipeline.report import Asset
from orchestration.faulty_ports import InterruptedStore
from orchestration.pipeline_under_test import PipelineUnderTest, document_text, failure_of, only

ALL_GREEN = {"green"}
OUTAGE = {"operation": "create_embeddings", "status": 503, "retry_after": 60}


def test_a_transient_failure_waits_without_red_and_is_tried_again(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.mocks.script("openai", "status", times=1, **OUTAGE)
    assert all(run.success for run in pipeline.complete())
    job = pipeline.job(document_id)
    assert (job["attempt"], job["last_error_code"], job["claimed_by"]) == (1, "vendor_unavailable", None)
    assert pipeline.colours(document_id)["embeddings"] == ""
    seen = pipeline.observed(Asset.EMBEDDINGS, document_id)
    assert seen["code"] == "vendor_unavailable"
    assert seen["retry_in_seconds"] >= 60
    assert not pipeline.tick("completion_sensor").run_requests  # it is not due yet

    pipeline.due_now()
    assert only(pipeline.process()).success
    assert pipeline.job(document_id)["attempt"] == 0
    assert set(pipeline.colours(document_id).values()) == ALL_GREEN


def test_attempts_that_are_used_up_make_a_dead_letter(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.mocks.script("openai", "status", times=None, **OUTAGE)
    pipeline.complete()
    attempts = pipeline.services.limits.max_attempts
    for _ in range(attempts - 2):
        pipeline.due_now()
        assert only(pipeline.process()).success
    pipeline.due_now()
    last = only(pipeline.process())
    assert f"given up after {attempts} attempts" in failure_of(last)[1][str(document_id)]
    assert pipeline.document(document_id).state is State.FAILED_EMBEDDING
    assert pipeline.colours(document_id)["embeddings"] == "red"
    pipeline.due_now()
    assert pipeline.process() == []
    assert pipeline.calls("openai", "create_embeddings") == attempts


def test_a_run_of_one_partition_replays_a_dead_letter_from_its_last_durable_state(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.mocks.script("openai", "status", times=1, status=401)
    pipeline.complete()
    assert pipeline.colours(document_id)["embeddings"] == "red"
    parses = pipeline.calls("llamacloud", "create_parse_job")

    assert pipeline.materialise(document_id).success
    assert pipeline.document(document_id).state is State.COMPLETE
    assert set(pipeline.colours(document_id).values()) == ALL_GREEN
    assert pipeline.calls("llamacloud", "create_parse_job") == parses


def test_a_run_of_one_partition_that_fails_again_stays_red(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.mocks.script("openai", "status", times=2, status=401)
    pipeline.complete()
    assert not pipeline.materialise(document_id).success
    assert pipeline.colours(document_id)["embeddings"] == "red"
    assert pipeline.document(document_id).state is State.FAILED_EMBEDDING


def test_a_document_that_could_not_be_parsed_is_parsed_anew_on_replay(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.mocks.script("llamacloud", "job_failure", operation="run_job", times=1, code="PDF_IS_BROKEN")
    pipeline.complete()
    assert pipeline.colours(document_id)["parsed"] == "red"

    assert pipeline.materialise(document_id).success  # goes as far as the parser
    assert pipeline.document(document_id).state is State.PARSE_QUEUED
    pipeline.finish_parsing()
    assert only(pipeline.process()).success
    assert set(pipeline.colours(document_id).values()) == ALL_GREEN


def test_a_run_from_the_ui_leaves_no_check_that_it_planned_and_did_not_come_to(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.mocks.script("llamacloud", "job_failure", operation="run_job", times=1, code="PDF_IS_BROKEN")
    pipeline.complete()
    run = pipeline.materialise(document_id, job="__ASSET_JOB")  # of all assets and checks; goes as far as the parser
    planned = pipeline.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED)
    assert len(planned) == sum(len(checks) for checks in CHECKS.values())
    shown = [(asset, check) for asset in Asset for check in CHECKS[asset] if pipeline.newest_of_check(asset, check)]
    assert shown == [(Asset.RAW_UPLOAD, "upload_is_intact")]
    assert pipeline.newest_of_check(*shown[0]) == "SUCCEEDED"


def test_a_run_over_complete_documents_tells_again_and_calls_no_vendor(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.complete()
    pipeline.instance.wipe_assets([dg.AssetKey(asset.value) for asset in Asset])
    before = [pipeline.mocks.control(service, "GET", "calls")["calls"] for service in ("llamacloud", "openai")]

    assert pipeline.materialise(document_id).success
    assert all(pipeline.materialised(asset, document_id) for asset in Asset)
    assert set(pipeline.colours(document_id).values()) == ALL_GREEN
    after = [pipeline.mocks.control(service, "GET", "calls")["calls"] for service in ("llamacloud", "openai")]
    assert after == before
    assert pipeline.job(document_id)["claimed_by"] is None


def test_a_document_that_another_run_took_over_is_left_as_it_is(pipeline: PipelineUnderTest) -> None:
    lost, kept = pipeline.upload(document_text("lost")), pipeline.upload(document_text("kept"))
    pipeline.submit()
    pipeline.finish_parsing()

    def taken_over() -> None:
        pipeline.rows(
            "update upload_pipeline.upload_jobs set claimed_by = 'another run' where document_id = %s", str(lost)
        )

    interrupted = InterruptedStore(pipeline.services.documents, "chunks_stored", taken_over)
    assert only(pipeline.with_services(documents=interrupted).process()).success
    job = pipeline.job(lost)
    assert (job["state"], job["claimed_by"], job["attempt"], job["last_error_code"]) == (
        "parse_validated",
        "another run",
        0,
        None,
    )
    assert "red" not in pipeline.colours(lost).values()
    assert pipeline.document(kept).state is State.COMPLETE


def test_a_replayed_document_stays_with_the_run_that_replays_it(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.mocks.script("openai", "status", times=1, status=401)
    pipeline.complete()
    taken: list[object] = []

    def sensor_is_fast() -> None:
        taken.extend(pipeline.tick("completion_sensor").run_requests or [])

    watched = InterruptedStore(pipeline.services.documents, "claim_documents", sensor_is_fast)
    assert pipeline.with_services(documents=watched).materialise(document_id).success
    assert taken == []
    assert set(pipeline.colours(document_id).values()) == ALL_GREEN


def test_a_cancelled_document_is_taken_up_again_by_a_run_of_its_partition(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.tick("upload_sensor")
    pipeline.rows(
        "update upload_pipeline.upload_jobs set state = 'cancelled', claimed_by = null, claim_expires_at = null"
    )
    assert pipeline.materialise(document_id).success
    pipeline.finish_parsing()
    pipeline.process()
    assert set(pipeline.colours(document_id).values()) == ALL_GREEN


def test_a_run_that_is_tagged_to_start_over_parses_complete_documents_anew_and_buys_no_vector_twice(
    pipeline: PipelineUnderTest,
) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.complete()
    bought = pipeline.texts_embedded()
    assert pipeline.materialise(document_id, tags={START_OVER_TAG: "true"}).success
    assert pipeline.document(document_id).state is State.PARSE_QUEUED
    pipeline.finish_parsing()
    assert only(pipeline.process()).success
    assert (pipeline.document(document_id).state, pipeline.document(document_id).parse_round) == (State.COMPLETE, 2)
    assert pipeline.calls("llamacloud", "create_parse_job") == 2
    assert pipeline.texts_embedded() == bought
    assert set(pipeline.colours(document_id).values()) == ALL_GREEN


def test_a_run_that_is_tagged_to_start_over_parses_a_failed_document_anew(pipeline: PipelineUnderTest) -> None:
    pipeline.mocks.script("openai", "status", match="refused", times=3, status=400)  # together, then each alone
    kept, anew = pipeline.upload(document_text("refused, kept")), pipeline.upload(document_text("refused, anew"))
    pipeline.complete()
    assert {pipeline.document(each).state for each in (kept, anew)} == {State.FAILED_EMBEDDING}
    assert pipeline.materialise(kept).success
    assert pipeline.materialise(anew, tags={START_OVER_TAG: "true"}).success
    assert pipeline.document(kept).state is State.COMPLETE
    assert (pipeline.document(anew).state, pipeline.document(anew).parse_round) == (State.PARSE_QUEUED, 2)
    pipeline.finish_parsing()
    pipeline.process()
    assert pipeline.document(anew).state is State.COMPLETE
