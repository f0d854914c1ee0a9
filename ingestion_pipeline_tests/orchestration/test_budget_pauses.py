"""Budgets that are used up: work pauses with a reason, and goes on; what is paid is kept."""

from collections.abc import Callable
from decimal import Decimal

from ingestion_pipeline.domain import State
from ingestion_pipeline.pipeline.report import Asset
from orchestration.pipeline_under_test import PipelineUnderTest, document_text, failure_of, only

PARSED = Decimal("0.00375")  # a page of the tier cost_effective
YESTERDAY = "update upload_pipeline.provider_usage set at = at - interval '1 day'"

Make = Callable[..., PipelineUnderTest]


def test_when_the_days_budget_is_used_up_documents_wait_until_tomorrow_and_go_on_then(pipeline_with: Make) -> None:
    submitting = pipeline_with(daily_budget_usd=float(PARSED))
    first, second = submitting.upload(document_text("first")), submitting.upload(document_text("second"))
    submitting.submit()
    submitting.finish_parsing()
    pipeline = pipeline_with(daily_budget_usd=float(PARSED))  # another process: one looks at the sums once a second
    assert only(pipeline.process()).success
    for document_id in (first, second):  # parsing them has used it up
        job = pipeline.job(document_id)
        assert (job["state"], job["attempt"], job["last_error_code"]) == (
            "embedding_in_progress", 0, "budget_exhausted",
        )  # fmt: skip
    [due] = pipeline.rows(
        "select bool_and(next_attempt_at between midnight - interval '1 second' and midnight + interval '2 minutes')"
        " as tomorrow from upload_pipeline.upload_jobs,"
        " lateral (select date_trunc('day', now(), 'UTC') + interval '24 hours' as midnight) as m"
    )
    assert due["tomorrow"]
    assert pipeline.observed(Asset.EMBEDDINGS, first)["code"] == "budget_exhausted"
    assert pipeline.calls("openai", "create_embeddings") == 0

    third = pipeline.upload(document_text("third"))
    pipeline.submit()
    assert pipeline.job(third)["last_error_code"] == "budget_exhausted"
    assert pipeline.calls("llamacloud", "create_parse_job") == 2

    pipeline.rows(YESTERDAY)
    pipeline.due_now()
    tomorrow = pipeline_with(daily_budget_usd=2 * float(PARSED))  # the third is parsed
    tomorrow.complete()
    assert {tomorrow.document(document_id).state for document_id in (first, second, third)} == {State.COMPLETE}
    assert tomorrow.calls("llamacloud", "create_parse_job") == 3
    assert tomorrow.texts_embedded() == 3


def test_one_owners_budget_is_no_others(pipeline_with: Make) -> None:
    pipeline = pipeline_with(owner_daily_budget_usd=float(PARSED))
    poor, rich = pipeline.upload(document_text("poor")), pipeline.upload(document_text("rich"))
    pipeline.submit()
    pipeline.finish_parsing()
    other = "00000000-0000-4000-8000-0000000000ff"
    for table in ("documents", "upload_jobs"):
        pipeline.rows(f"update upload_pipeline.{table} set owner_id = %s where document_id = %s", other, str(rich))
    pipeline.rows(
        "insert into upload_pipeline.provider_usage (call_id, provider, operation, model, owner_id, cost_usd)"
        " select gen_random_uuid(), 'openai', 'embed', 'm', owner_id, %s from upload_pipeline.documents"
        " where document_id = %s",
        PARSED,
        str(poor),
    )
    generous = pipeline_with(owner_daily_budget_usd=float(2 * PARSED))
    generous.process()
    assert generous.document(rich).state is State.COMPLETE
    assert generous.job(poor)["last_error_code"] == "budget_exhausted"


def test_a_document_that_would_cost_too_much_is_a_dead_letter_before_it_is_half_paid(pipeline_with: Make) -> None:
    pipeline = pipeline_with(document_budget_usd=float(PARSED) + 0.00001)  # 500 tokens
    long, short = pipeline.upload(document_text("long", paragraphs=100)), pipeline.upload(document_text("short"))
    run = pipeline.complete()[-1]
    assert set(failure_of(run)[1]) == {str(long)}
    assert pipeline.document(long).last_error_code == "document_budget_exceeded"
    assert pipeline.document(short).state is State.COMPLETE
    parses = pipeline.calls("llamacloud", "create_parse_job")

    generous = pipeline.with_services(budgets=pipeline_with(document_budget_usd=1).services.budgets)
    assert generous.materialise(long).success
    assert generous.document(long).state is State.COMPLETE
    assert generous.calls("llamacloud", "create_parse_job") == parses


def test_a_document_whose_vectors_are_there_already_needs_no_budget(pipeline_with: Make) -> None:
    text = document_text("twin")
    pipeline = pipeline_with()
    pipeline.upload(text)
    pipeline.complete()
    twin = pipeline.upload(text + "\n")
    pipeline.submit()
    pipeline.finish_parsing()
    without = pipeline_with(daily_budget_usd=0)
    without.process()
    assert without.document(twin).state is State.COMPLETE
