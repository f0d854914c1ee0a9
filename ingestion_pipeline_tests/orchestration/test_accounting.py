"""What the ledger says, held against what the vendors' mocks counted."""

from typing import Any

from ingestion_pipeline.domain import State
from ingestion_pipeline.pipeline.report import Asset
from ingestion_pipeline.stages.usage import embedding_cost_usd, parsing_cost_usd
from orchestration.faulty_ports import DyingStore
from orchestration.pipeline_under_test import PipelineUnderTest, document_text

MODEL = "text-embedding-3-small"


def totals(pipeline: PipelineUnderTest, provider: str) -> dict[str, Any]:
    [row] = pipeline.rows(
        "select coalesce(sum(tokens), 0)::bigint as tokens, coalesce(sum(pages), 0)::bigint as pages,"
        " coalesce(sum(cost_usd), 0) as cost_usd, count(distinct call_id) as calls"
        " from upload_pipeline.provider_usage where provider = %s and outcome = 'ok'",
        provider,
    )
    return row


def billed_tokens(pipeline: PipelineUnderTest) -> int:
    return int(pipeline.mocks.control("openai", "GET", "calls")["tokens"])


def test_the_ledger_adds_up_to_what_the_vendors_billed(pipeline: PipelineUnderTest) -> None:
    documents = [pipeline.upload(document_text(f"manual {number}", paragraphs=20 * number)) for number in range(1, 13)]
    pipeline.complete()
    assert {pipeline.document(document_id).state for document_id in documents} == {State.COMPLETE}

    embedded = totals(pipeline, "openai")
    assert embedded["tokens"] == billed_tokens(pipeline) > 0
    assert embedded["cost_usd"] == embedding_cost_usd(MODEL, embedded["tokens"])
    assert embedded["calls"] == pipeline.calls("openai", "create_embeddings")

    parsed = totals(pipeline, "llamacloud")
    pages = sum(pipeline.document(document_id).page_count or 0 for document_id in documents)
    assert (parsed["pages"], parsed["calls"]) == (pages, 12)
    assert parsed["cost_usd"] == parsing_cost_usd("cost_effective", pages)

    for document_id in documents:
        [row] = pipeline.rows(
            "select sum(tokens)::bigint as tokens from upload_pipeline.provider_usage where document_id = %s",
            str(document_id),
        )
        assert row["tokens"] == pipeline.materialised(Asset.EMBEDDINGS, document_id)["tokens"] > 0


def test_a_run_that_dies_after_paying_has_paid_for_what_is_stored(pipeline: PipelineUnderTest) -> None:
    pipeline.upload(document_text("one"))
    pipeline.submit()
    pipeline.finish_parsing()
    pipeline.with_services(documents=DyingStore(pipeline.services.documents, "store_vectors")).process()
    pipeline.expire_claims()
    pipeline.tick("reconcile_sensor")
    pipeline.due_now()
    pipeline.process()
    assert totals(pipeline, "openai")["tokens"] == billed_tokens(pipeline)
    assert pipeline.calls("openai", "create_embeddings") == 1


def test_answers_that_could_not_be_used_are_in_the_ledger_as_well(pipeline: PipelineUnderTest) -> None:
    pipeline.upload(document_text("one"))
    pipeline.mocks.script("openai", "nan_vectors", times=1)
    pipeline.complete()
    assert totals(pipeline, "openai")["tokens"] == 0
    pipeline.due_now()
    pipeline.process()
    rows = pipeline.rows("select outcome, tokens from upload_pipeline.provider_usage where provider = 'openai'")
    assert {row["outcome"] for row in rows} == {"ok", "malformed_response"}
    assert sum(row["tokens"] for row in rows) == billed_tokens(pipeline)
