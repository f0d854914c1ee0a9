"""Cancelling while runs, the parser and Dagster are at it: who stops, who is told, and what an operator sees."""

from uuid import UUID

from ingestion_pipeline.dagster_defs.assets import DOCUMENTS
from ingestion_pipeline.domain import State
from orchestration.faulty_ports import InterruptedStore
from orchestration.pipeline_under_test import OWNER, PipelineUnderTest, document_text, only

NO_END = {"operation": "run_job", "times": 1}


def cancel(pipeline: PipelineUnderTest, document_id: UUID) -> None:
    assert pipeline.catalogue.cancel(OWNER, document_id).state is State.CANCELLED


def retry(pipeline: PipelineUnderTest, document_id: UUID) -> None:
    pipeline.catalogue.retry(OWNER, document_id, start_over=False)


def partitions(pipeline: PipelineUnderTest) -> set[str]:
    return set(pipeline.instance.get_dynamic_partitions(str(DOCUMENTS.name)))


def due(pipeline: PipelineUnderTest) -> None:
    pipeline.rows("update upload_pipeline.cancellations set due_at = now()")


def test_a_run_goes_on_without_the_document_that_was_cancelled(pipeline: PipelineUnderTest) -> None:
    stopped, kept = pipeline.upload(document_text("stopped")), pipeline.upload(document_text("kept"))
    pipeline.submit()
    pipeline.finish_parsing()
    cancelling = InterruptedStore(
        pipeline.services.documents, "embedding_started", lambda: pipeline.catalogue.cancel(OWNER, stopped)
    )
    assert only(pipeline.with_services(documents=cancelling).process()).success
    assert pipeline.document(kept).state is State.COMPLETE
    row = pipeline.job(stopped)
    assert (row["state"], row["cancelled_from"], row["claimed_by"]) == ("cancelled", "chunks_stored", None)
    assert "red" not in pipeline.colours(stopped).values()

    retry(pipeline, stopped)
    parses = pipeline.calls("llamacloud", "create_parse_job")
    assert only(pipeline.process()).success
    assert set(pipeline.colours(stopped).values()) == {"green"}
    assert pipeline.calls("llamacloud", "create_parse_job") == parses


def test_a_parse_job_at_work_is_cancelled_at_the_parser_once(pipeline: PipelineUnderTest) -> None:
    pipeline.mocks.script("llamacloud", "never_finish", **NO_END)
    document_id = pipeline.upload(document_text("slow"))
    pipeline.submit()
    job_id = pipeline.document(document_id).parse_job_id or ""
    cancel(pipeline, document_id)
    for _ in range(3):
        pipeline.due_now()
        due(pipeline)
        pipeline.tick("reconcile_sensor")
    assert pipeline.calls("llamacloud", "cancel_parse_job") == 1
    assert pipeline.services.parser.status(job_id).outcome == "cancelled"
    assert pipeline.document(document_id).state is State.CANCELLED


def test_a_parse_job_that_is_over_is_not_cancelled(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.submit()
    pipeline.finish_parsing()
    cancel(pipeline, document_id)
    assert "cancelled 1" in pipeline.tick("reconcile_sensor").skip_message
    assert pipeline.calls("llamacloud", "cancel_parse_job") == 0


def test_a_parser_that_does_not_answer_is_told_later(pipeline: PipelineUnderTest) -> None:
    pipeline.mocks.script("llamacloud", "never_finish", **NO_END)
    pipeline.mocks.script("llamacloud", "status", operation="cancel_parse_job", times=1, status=503)
    document_id = pipeline.upload(document_text("slow"))
    pipeline.submit()
    cancel(pipeline, document_id)
    assert "cancelled 0" in pipeline.tick("reconcile_sensor").skip_message
    assert "cancelled 0" in pipeline.tick("reconcile_sensor").skip_message  # not before its time
    assert pipeline.calls("llamacloud", "cancel_parse_job") == 1
    due(pipeline)
    assert "cancelled 1" in pipeline.tick("reconcile_sensor").skip_message
    assert pipeline.calls("llamacloud", "cancel_parse_job") == 2


def test_a_document_that_is_cancelled_while_it_is_submitted_leaves_no_job_at_work(pipeline: PipelineUnderTest) -> None:
    pipeline.mocks.script("llamacloud", "never_finish", **NO_END)
    document_id = pipeline.upload(document_text("one"))
    cancelling = InterruptedStore(
        pipeline.services.documents, "parse_submitted", lambda: pipeline.catalogue.cancel(OWNER, document_id)
    )
    assert only(pipeline.with_services(documents=cancelling).submit()).success
    row = pipeline.job(document_id)
    assert (row["state"], row["parse_job_id"]) == ("cancelled", None)
    assert "cancelled 0" in pipeline.tick("reconcile_sensor").skip_message  # the run may not have noticed yet
    due(pipeline)
    assert "cancelled 1" in pipeline.tick("reconcile_sensor").skip_message
    job = pipeline.services.parser.find(document_id, 1)
    assert job is not None
    assert job.outcome == "cancelled"


def test_the_partition_of_a_cancelled_document_goes_and_comes_back_with_a_retry(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.mocks.script("openai", "status", times=1, status=401)
    pipeline.complete()
    assert pipeline.colours(document_id)["embeddings"] == "red"
    cancel(pipeline, document_id)
    pipeline.tick("reconcile_sensor")
    assert str(document_id) not in partitions(pipeline)
    assert set(pipeline.colours(document_id).values()) == {""}

    retry(pipeline, document_id)
    assert only(pipeline.process()).success
    assert set(pipeline.colours(document_id).values()) == {"green"}


def test_a_document_that_was_taken_up_again_keeps_its_partition(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.submit()
    cancel(pipeline, document_id)
    retry(pipeline, document_id)
    assert "cancelled 0" in pipeline.tick("reconcile_sensor").skip_message
    assert pipeline.calls("llamacloud", "cancel_parse_job") == 1  # the job of the round before
    pipeline.complete()
    assert set(pipeline.colours(document_id).values()) == {"green"}


def test_starting_over_parses_anew_and_pays_for_no_text_twice(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    cancelling = InterruptedStore(
        pipeline.services.documents, "promote", lambda: pipeline.catalogue.cancel(OWNER, document_id)
    )
    pipeline.with_services(documents=cancelling).complete()
    assert pipeline.job(document_id)["cancelled_from"] == "embeddings_stored"
    paid, parses = pipeline.texts_embedded(), pipeline.calls("llamacloud", "create_parse_job")

    pipeline.catalogue.retry(OWNER, document_id, start_over=True)
    pipeline.complete()
    assert set(pipeline.colours(document_id).values()) == {"green"}
    assert pipeline.texts_embedded() == paid > 0
    assert pipeline.calls("llamacloud", "create_parse_job") == parses + 1


def test_failures_over_more_time_than_allowed_make_a_dead_letter(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.mocks.script("openai", "status", operation="create_embeddings", times=None, status=503)
    pipeline.complete()
    assert pipeline.job(document_id)["attempt"] == 1
    pipeline.rows("update upload_pipeline.upload_jobs set failing_since = now() - interval '25 hours'")
    pipeline.due_now()
    pipeline.process()
    document = pipeline.document(document_id)
    assert (document.state, document.attempt) == (State.FAILED_EMBEDDING, 2)
    assert "after the first failure" in (document.last_error_message or "")
