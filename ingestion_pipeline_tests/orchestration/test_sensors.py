"""What the sensors ask for: one run a batch, never more than the machine takes, and nothing without a database."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.dagster_defs import sensors
from ingestion_pipeline.dagster_defs.assets import DOCUMENTS
from ingestion_pipeline.dagster_defs.sensors import FLOOD_RUNS, MAX_ACTIVE_BATCHES
from ingestion_pipeline.domain import Lane, State
from orchestration.pipeline_under_test import PipelineUnderTest, document_text, wait_for

SENSORS = ("upload_sensor", "completion_sensor", "reconcile_sensor")


@pytest.mark.parametrize("sensor", SENSORS)
def test_without_work_a_sensor_skips_and_says_so(pipeline: PipelineUnderTest, sensor: str) -> None:
    tick = pipeline.tick(sensor)
    assert not tick.run_requests
    assert tick.skip_message


def test_uploads_become_one_run_of_their_batch_and_partitions_of_dagster(pipeline: PipelineUnderTest) -> None:
    documents = {pipeline.upload(document_text(title)) for title in ("one", "two", "three")}
    [request] = pipeline.tick("upload_sensor").run_requests
    batch_id = request.run_config["ops"]["ingest_documents"]["config"]["batch_id"]
    assert request.run_key == batch_id == request.tags["ingest/batch"]
    assert request.tags["ingest/documents"] == "3"
    assert request.partition_key is None
    assert {UUID(key) for key in pipeline.instance.get_dynamic_partitions(str(DOCUMENTS.name))} == documents
    assert {str(pipeline.job(document_id)["claimed_by"]) for document_id in documents} == {batch_id}


def test_claimed_documents_are_not_asked_for_again(pipeline: PipelineUnderTest) -> None:
    pipeline.upload(document_text("one"))
    assert pipeline.tick("upload_sensor").run_requests
    assert not pipeline.tick("upload_sensor").run_requests


def test_only_parsed_documents_are_asked_to_be_processed(pipeline: PipelineUnderTest) -> None:
    pipeline.upload(document_text("parsed"))
    pipeline.submit()
    pipeline.upload(document_text("only uploaded"))
    assert not pipeline.tick("completion_sensor").run_requests
    pipeline.finish_parsing()
    [request] = pipeline.tick("completion_sensor").run_requests
    assert request.tags["ingest/documents"] == "1"


def test_with_too_many_batches_at_work_nothing_more_is_claimed(pipeline: PipelineUnderTest) -> None:
    small = pipeline.with_limits(batch_documents=1)
    documents = [pipeline.upload(document_text(f"document {number}")) for number in range(MAX_ACTIVE_BATCHES + 1)]
    assert len(small.tick("upload_sensor").run_requests) == MAX_ACTIVE_BATCHES
    assert not small.tick("upload_sensor").run_requests
    unclaimed = [document_id for document_id in documents if pipeline.job(document_id)["claimed_by"] is None]
    assert len(unclaimed) == 1


def test_what_is_due_is_shared_among_as_many_runs_as_may_be_at_work(
    pipeline: PipelineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "LEAST_SHARE", 2)
    for number in range(MAX_ACTIVE_BATCHES * 2 - 1):
        pipeline.upload(document_text(f"document {number}"))
    requests = pipeline.tick("upload_sensor").run_requests or []
    assert [request.tags["ingest/documents"] for request in requests] == ["2", "2", "2", "1"]


def test_a_large_document_is_a_share_of_its_own(pipeline: PipelineUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "LEAST_SHARE", 2)
    pipeline.upload(document_text("large", paragraphs=1500))
    for number in range(MAX_ACTIVE_BATCHES * 2 - 2):
        pipeline.upload(document_text(f"document {number}"))
    requests = pipeline.tick("upload_sensor").run_requests or []
    first, *others = (int(request.tags["ingest/documents"]) for request in requests)
    assert (first, sum(others)) == (1, MAX_ACTIVE_BATCHES * 2 - 2)
    assert max(others) > 2


def test_a_few_documents_find_a_run_while_a_flood_is_at_work(
    pipeline: PipelineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "LEAST_SHARE", 2)
    monkeypatch.setitem(FLOOD_RUNS, Lane.PROCESS, 2)

    def parsed(count: int) -> list[str]:
        for _ in range(count):
            pipeline.upload(document_text(str(uuid4())))
        pipeline.submit()
        pipeline.finish_parsing()
        requests = pipeline.tick("completion_sensor").run_requests or []
        return [request.tags["ingest/documents"] for request in requests]

    assert parsed(8) == ["4", "4"]
    assert parsed(2) == ["2"]
    assert parsed(3) == []
    assert parsed(0) == []


def test_a_few_documents_are_not_shared(pipeline: PipelineUnderTest) -> None:
    for number in range(MAX_ACTIVE_BATCHES * 2):
        pipeline.upload(document_text(f"document {number}"))
    [request] = pipeline.tick("upload_sensor").run_requests or []
    assert request.tags["ingest/documents"] == str(MAX_ACTIVE_BATCHES * 2)


def test_after_a_batch_is_done_the_next_one_is_claimed(pipeline: PipelineUnderTest) -> None:
    small = pipeline.with_limits(batch_documents=1)
    for number in range(MAX_ACTIVE_BATCHES + 1):
        pipeline.upload(document_text(f"document {number}"))
    assert len(small.submit()) == MAX_ACTIVE_BATCHES
    assert len(small.tick("upload_sensor").run_requests) == 1


@pytest.mark.parametrize("sensor", SENSORS)
def test_while_the_database_is_away_a_sensor_skips_with_the_reason(pipeline: PipelineUnderTest, sensor: str) -> None:
    away = Database("postgresql://ingest_worker:secret@127.0.0.1:9/nowhere", application_name="ingest-worker-test")
    unreachable = PostgresDocumentStore(away, actor="worker", claim_seconds=60)
    tick = pipeline.with_services(documents=unreachable).tick(sensor)
    assert not tick.run_requests
    assert tick.skip_message
    assert "secret" not in tick.skip_message


def test_a_claim_of_a_run_that_never_started_goes_back_to_the_queue(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    assert pipeline.tick("upload_sensor").run_requests  # and the daemon dies here
    pipeline.expire_claims()
    assert "claims returned 1" in pipeline.tick("reconcile_sensor").skip_message
    pipeline.due_now()
    pipeline.complete()
    assert pipeline.document(document_id).state is State.COMPLETE


def test_a_document_over_the_size_of_a_batch_gets_a_batch_of_its_own(pipeline: PipelineUnderTest) -> None:
    pipeline = replace(pipeline, services=pipeline.with_limits(batch_bytes=10).services)
    for title in ("one", "two"):
        pipeline.upload(document_text(title))
    assert [request.tags["ingest/documents"] for request in pipeline.tick("upload_sensor").run_requests] == ["1", "1"]


def test_a_sensor_that_waits_hears_of_an_upload_at_once(pipeline: PipelineUnderTest) -> None:
    waiting = pipeline.with_limits(sensor_wait_seconds=30)
    with ThreadPoolExecutor(1) as pool:
        tick = pool.submit(waiting.tick, "upload_sensor")
        listening = "select 1 from pg_stat_activity where query ilike 'listen%%' and datname = current_database()"
        wait_for(lambda: pipeline.rows(listening), "the sensor listens")
        pipeline.upload(document_text("one"))
        assert tick.result(timeout=10).run_requests
