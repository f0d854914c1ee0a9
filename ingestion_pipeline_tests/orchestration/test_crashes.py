"""A process that dies between two stages: the next one re-does only what is missing, and Dagster ends up all green."""

from typing import Any
from uuid import UUID

import dagster as dg
import pytest

from ingestion_pipeline.domain import State
from ingestion_pipeline.errors import DatabaseUnavailableError, StoreUnavailableError
from ingestion_pipeline.pipeline.report import Asset
from orchestration.faulty_ports import Around, DyingStore
from orchestration.pipeline_under_test import PipelineUnderTest, document_text, failure_of, only


def revive(pipeline: PipelineUnderTest) -> list[dg.ExecuteInProcessResult]:
    """What follows a death: the reconcile sensor returns the claims, and what it does not tell is due in the end."""
    told = pipeline.tick_and_run("reconcile_sensor", "process")
    pipeline.due_now()
    return told


def die_in(pipeline: PipelineUnderTest, method: str, *, before: bool = False) -> None:
    """Run whatever is due in a process that dies in a method of its store; its claims expire."""
    store = DyingStore(pipeline.services.documents, method, before=before)
    dying = pipeline.with_services(documents=store)
    for tick, run in (("upload_sensor", "submit"), ("completion_sensor", "process")):
        requests = pipeline.tick(tick).run_requests or []
        for request in requests:
            dying.execute(run, run_config=request.run_config, tags=request.tags)
    assert store.is_dead
    pipeline.expire_claims()


def test_a_document_whose_run_dies_after_every_stage_is_parsed_and_embedded_once(pipeline: PipelineUnderTest) -> None:
    pipeline = pipeline.with_limits(max_attempts=20)
    document_id = pipeline.upload(document_text("one", paragraphs=60))
    die_in(pipeline, "parse_submitted", before=True)
    revive(pipeline)
    pipeline.submit()
    pipeline.finish_parsing()
    for method, reached in (
        ("parsed", State.PARSE_VALIDATED),
        ("chunks_stored", State.CHUNKS_STORED),
        ("embedding_started", State.EMBEDDING_IN_PROGRESS),
        ("store_vectors", State.EMBEDDING_IN_PROGRESS),
        ("embeddings_stored", State.EMBEDDINGS_STORED),
        ("promote", State.COMPLETE),
    ):
        die_in(pipeline, method)
        assert pipeline.document(document_id).state is reached
        assert "red" not in pipeline.colours(document_id).values() or reached is State.COMPLETE
        told = revive(pipeline)
    assert only(told).success
    assert set(pipeline.colours(document_id).values()) == {"green"}
    chunks = pipeline.document(document_id).chunk_count
    assert chunks is not None
    assert chunks > 1
    assert pipeline.calls("llamacloud", "create_parse_job") == 1
    assert pipeline.texts_embedded() == chunks
    served = pipeline.rows(
        "select count(*) as chunks, count(distinct ordinal) as places from upload_pipeline.document_chunks"
    )
    assert served == [{"chunks": chunks, "places": chunks}]


def test_a_run_that_dies_costs_its_documents_an_attempt(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    die_in(pipeline, "parse_submitted", before=True)
    pipeline.tick("reconcile_sensor")
    job = pipeline.job(document_id)
    assert (job["attempt"], job["last_error_code"], job["claimed_by"]) == (1, "worker_lost", None)


def test_a_document_that_kills_every_run_is_set_aside(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    for _ in range(pipeline.services.limits.max_attempts):
        die_in(pipeline, "parse_submitted", before=True)
        revive(pipeline)
    reasons = failure_of(only(pipeline.submit()))[1]
    assert "worker_lost" in reasons[str(document_id)]
    assert pipeline.document(document_id).state is State.FAILED_PARSE
    assert pipeline.colours(document_id)[Asset.RAW_UPLOAD.value] == "red"


@pytest.mark.parametrize("method", ["renew_claim", "finish_batch"])
def test_a_run_that_loses_its_database_fails_without_blaming_a_document(
    pipeline: PipelineUnderTest, method: str
) -> None:
    document_id = pipeline.upload(document_text("one"))
    die_in(pipeline, method, before=True)
    revive(pipeline)
    assert "red" not in pipeline.colours(document_id).values()
    pipeline.complete()
    assert pipeline.document(document_id).state is State.COMPLETE


def test_parse_jobs_that_could_not_be_written_down_are_found_once_the_database_is_back(
    pipeline: PipelineUnderTest,
) -> None:
    document_ids = [pipeline.upload(document_text(f"document {number}")) for number in range(12)]

    class AwayWhileWriting(Around):
        def __getattr__(self, name: str) -> Any:
            def fail(*_: Any, **__: Any) -> None:
                raise DatabaseUnavailableError("the server is being restarted")

            return fail if name in ("parse_submitted", "retry_later") else super().__getattr__(name)

    broken = pipeline.with_services(documents=AwayWhileWriting(pipeline.services.documents))
    assert not only(broken.submit()).success
    made = pipeline.calls("llamacloud", "create_parse_job")
    assert made > 0
    pipeline.tick("reconcile_sensor")
    assert {pipeline.job(document_id)["last_error_code"] for document_id in document_ids} == {"worker_lost"}
    pipeline.due_now()
    assert only(pipeline.submit()).success
    assert {pipeline.document(document_id).state for document_id in document_ids} == {State.PARSE_QUEUED}
    assert pipeline.calls("llamacloud", "create_parse_job") == len(document_ids)


def test_texts_are_made_durable_before_a_state_says_that_they_are_there(pipeline: PipelineUnderTest) -> None:
    documents = {pipeline.upload(document_text(title)) for title in ("one", "two", "three")}
    pipeline.submit()
    pipeline.finish_parsing()
    synced: list[tuple[str, State]] = []

    class WatchedObjects(Around):
        def sync(self, keys: list[str]) -> None:
            synced.extend((key, pipeline.document(UUID(key[-39:-3])).state) for key in keys)
            if len(synced) == len(documents):
                raise StoreUnavailableError("the disk is away")
            self._real.sync(keys)

    pipeline.with_services(objects=WatchedObjects(pipeline.services.objects)).process()
    assert len(synced) == 2 * len(documents), "together, and after the failure one by one"
    assert {state for _, state in synced} == {State.PARSED}
    assert {UUID(key[-39:-3]) for key, _ in synced} == documents
    assert {pipeline.document(document_id).state for document_id in documents} == {State.COMPLETE}
