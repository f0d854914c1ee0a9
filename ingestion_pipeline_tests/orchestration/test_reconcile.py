"""What falls between runs: webhooks that never came, jobs that the parser lost, runs that died untold."""

import pytest

from ingestion_pipeline.domain import Failure, State
from ingestion_pipeline.errors import ParseJobLostError
from ingestion_pipeline.pipeline.advance import advance_documents
from ingestion_pipeline.pipeline.report import Asset
from orchestration.faulty_ports import Around
from orchestration.pipeline_under_test import PipelineUnderTest, document_text, failure_of, only, wait_for


def test_a_document_whose_webhook_was_lost_is_found_by_asking(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.submit()
    job_id = pipeline.document(document_id).parse_job_id
    assert job_id is not None
    wait_for(lambda: pipeline.services.parser.status(job_id).outcome, "the parser is done")
    assert "ended 0" in pipeline.tick("reconcile_sensor").skip_message  # it is not overdue yet
    pipeline.due_now()
    assert "ended 1" in pipeline.tick("reconcile_sensor").skip_message
    pipeline.process()
    assert pipeline.document(document_id).state is State.COMPLETE


def test_a_parse_job_at_work_is_asked_for_again_later(pipeline: PipelineUnderTest) -> None:
    pipeline.mocks.script("llamacloud", "never_finish", operation="run_job")
    document_id = pipeline.upload(document_text("slow"))
    pipeline.submit()
    pipeline.due_now()
    assert "running 1" in pipeline.tick("reconcile_sensor").skip_message
    assert "running 0" in pipeline.tick("reconcile_sensor").skip_message
    assert pipeline.document(document_id).state is State.PARSE_QUEUED


def test_a_parse_job_that_the_parser_lost_is_submitted_in_a_new_round(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.submit()
    first = pipeline.document(document_id)
    pipeline.mocks.control("llamacloud", "POST", "reset", {"state": True})  # the vendor forgets everything
    pipeline.due_now()
    assert "lost 1" in pipeline.tick("reconcile_sensor").skip_message
    again = pipeline.document(document_id)
    assert (again.state, again.parse_round, again.parse_job_id) == (State.UPLOADED, first.parse_round + 1, None)
    pipeline.complete()
    mended = pipeline.document(document_id)
    assert mended.state is State.COMPLETE
    assert mended.parse_job_id != first.parse_job_id


def test_a_result_that_the_parser_lost_after_it_was_done_is_parsed_anew(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.submit()
    pipeline.finish_parsing()
    pipeline.mocks.control("llamacloud", "POST", "reset", {"state": True})
    assert only(pipeline.process()).success
    assert pipeline.document(document_id).state is State.UPLOADED
    assert "red" not in pipeline.colours(document_id).values()
    pipeline.due_now()
    pipeline.complete()
    assert pipeline.document(document_id).state is State.COMPLETE


def test_a_parser_that_loses_every_job_is_not_asked_for_ever(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    for _ in range(pipeline.services.limits.max_attempts + 1):
        pipeline.due_now()
        pipeline.submit()
        pipeline.mocks.control("llamacloud", "POST", "reset", {"state": True})
        pipeline.due_now()
        pipeline.tick("reconcile_sensor")
    document = pipeline.document(document_id)
    assert document.state is State.FAILED_PARSE
    assert pipeline.colours(document_id)["raw_upload"] == "red"


def test_a_webhook_that_comes_while_the_parser_is_asked_wins(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.submit()
    asked: list[str] = []

    class ForgetfulParser(Around):
        def status(self, job_id: str) -> None:
            asked.append(job_id)
            pipeline.finish_parsing()  # the webhook is faster than this answer, and a run has the document already
            assert pipeline.tick("completion_sensor").run_requests
            raise ParseJobLostError("no such job")

    pipeline.due_now()
    pipeline.with_services(parser=ForgetfulParser(pipeline.services.parser)).tick("reconcile_sensor")
    assert asked
    assert pipeline.document(document_id).state is State.PARSED


def test_a_parser_that_does_not_answer_costs_one_call_and_no_state(pipeline: PipelineUnderTest) -> None:
    documents = [pipeline.upload(document_text(title)) for title in ("one", "two", "three")]
    pipeline.submit()
    pipeline.due_now()
    pipeline.mocks.script("llamacloud", "status", operation="get_parse_job", times=None, status=503)
    asked_before = pipeline.calls("llamacloud", "get_parse_job")
    assert "not answered 1" in pipeline.tick("reconcile_sensor").skip_message
    assert pipeline.calls("llamacloud", "get_parse_job") == asked_before + 1
    assert {pipeline.document(document_id).state for document_id in documents} == {State.PARSE_QUEUED}


@pytest.mark.parametrize("fails", [False, True])
def test_a_settled_document_whose_run_died_untold_is_told_by_another(
    pipeline: PipelineUnderTest, *, fails: bool
) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.submit()
    pipeline.finish_parsing()
    [request] = pipeline.tick("completion_sensor").run_requests
    claim = request.tags["ingest/batch"]
    if fails:
        failure = Failure("pdf_is_broken", "the PDF is damaged", Asset.PARSED.value, transient=False)
        pipeline.services.documents.dead_letter(pipeline.document(document_id), claim, failure)
    else:
        for _ in advance_documents([pipeline.document(document_id)], claim, pipeline.services):
            pass  # the work is done, and the process dies before Dagster hears of it
    assert pipeline.colours(document_id)["parsed"] == ""

    pipeline.expire_claims()
    told = only(pipeline.tick_and_run("reconcile_sensor", "process"))
    if fails:
        assert failure_of(told)[1] == {str(document_id): "notes.md: parsed: pdf_is_broken: the PDF is damaged"}
        assert pipeline.colours(document_id)["parsed"] == "red"
    else:
        assert told.success
        assert set(pipeline.colours(document_id).values()) == {"green"}
    assert pipeline.job(document_id)["claimed_by"] is None
    assert not pipeline.tick("reconcile_sensor").run_requests
