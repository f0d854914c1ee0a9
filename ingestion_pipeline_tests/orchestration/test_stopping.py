"""A run that is told to stop, by SIGTERM or from the Dagster UI: what is under way is kept, the rest goes back."""

import os
import signal
import threading
from typing import Any

import pytest

from ingestion_pipeline.domain import State
from orchestration.faulty_ports import Around
from orchestration.pipeline_under_test import PipelineUnderTest, document_text


class StoppedAt(Around):
    """A port during whose first call of a method the process is told to stop, twice as supervisors and Dagster do."""

    def __init__(self, real: Any, method: str) -> None:
        super().__init__(real)
        self._method = method
        self.told = threading.Event()

    def __getattr__(self, name: str) -> Any:
        if name == self._method and not self.told.is_set():
            self.told.set()
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
        return super().__getattr__(name)


def run_told_to_stop(pipeline: PipelineUnderTest, sensor: str, job: str, **ports: Any) -> None:
    """The run that a sensor asks for, in a process that is told to stop meanwhile."""
    [request] = pipeline.tick(sensor).run_requests
    stopped = pipeline.with_services(**ports).execute(job, run_config=request.run_config, tags=request.tags)
    assert not stopped.success


def states(pipeline: PipelineUnderTest) -> list[dict[str, Any]]:
    return pipeline.rows(
        "select state, claimed_by is not null as claimed, max(attempt) as attempts, count(*)::integer as documents"
        " from upload_pipeline.upload_jobs group by 1, 2 order by 1"
    )


def test_a_run_that_stops_while_it_submits_leaves_no_job_that_nobody_knows(pipeline: PipelineUnderTest) -> None:
    documents = [pipeline.upload(document_text(f"number {number}")) for number in range(40)]
    stopped = StoppedAt(pipeline.services.parser, "submit")
    run_told_to_stop(pipeline, "upload_sensor", "submit", parser=stopped)
    found = {row["state"]: row for row in states(pipeline)}
    assert set(found) == {"uploaded", "parse_queued"}
    assert not any(row["claimed"] or row["attempts"] for row in found.values())
    assert pipeline.calls("llamacloud", "create_parse_job") == found["parse_queued"]["documents"]

    pipeline.complete()
    assert states(pipeline) == [{"state": "complete", "claimed": False, "attempts": 0, "documents": len(documents)}]
    assert pipeline.calls("llamacloud", "create_parse_job") == len(documents)


def test_a_run_that_stops_while_it_embeds_keeps_what_is_answered_and_pays_for_nothing_twice(
    pipeline: PipelineUnderTest,
) -> None:
    documents = [pipeline.upload(document_text(f"number {number}", paragraphs=40)) for number in range(3)]
    pipeline.submit()
    pipeline.finish_parsing()
    run_told_to_stop(pipeline, "completion_sensor", "process", embedder=StoppedAt(pipeline.services.embedder, "embed"))
    paid = pipeline.texts_embedded()
    assert states(pipeline) == [
        {"state": "embedding_in_progress", "claimed": False, "attempts": 0, "documents": len(documents)}
    ]
    [stored] = pipeline.rows("select count(*)::integer as vectors from upload_pipeline.document_vectors")
    assert stored["vectors"] == paid > 0

    pipeline.process()
    assert {pipeline.document(document_id).state for document_id in documents} == {State.COMPLETE}
    chunks = sum(pipeline.document(document_id).chunk_count or 0 for document_id in documents)
    assert pipeline.texts_embedded() == chunks


def test_a_run_that_stops_does_not_wait_for_a_slow_vendor(
    pipeline: PipelineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingestion_pipeline.pipeline.groups.STOP_SECONDS", 0.2)
    document_id = pipeline.upload(document_text("slow"))
    pipeline.submit()
    pipeline.finish_parsing()
    answered = threading.Event()

    class SlowEmbedder(StoppedAt):
        def embed(self, texts: list[str]) -> Any:
            embeddings = super().__getattr__("embed")(texts)
            answered.wait(20)
            return embeddings

    run_told_to_stop(
        pipeline, "completion_sensor", "process", embedder=SlowEmbedder(pipeline.services.embedder, "embed")
    )
    assert not answered.is_set()
    assert pipeline.job(document_id)["claimed_by"] is None
    [request] = pipeline.tick("completion_sensor").run_requests
    answered.set()  # too late: the claim is another run's
    pipeline.execute("process", run_config=request.run_config, tags=request.tags)
    assert pipeline.document(document_id).state is State.COMPLETE
    assert pipeline.job(document_id)["attempt"] == 0


def test_dagster_hears_of_what_is_finished_while_the_run_stops(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.submit()
    pipeline.finish_parsing()
    store = StoppedAt(pipeline.services.documents, "promote")
    run_told_to_stop(pipeline, "completion_sensor", "process", documents=store)
    assert pipeline.document(document_id).state is State.COMPLETE
    assert set(pipeline.colours(document_id).values()) == {"green"}
    assert pipeline.job(document_id)["claimed_by"] is None


def test_a_code_server_that_is_told_to_stop_claims_nothing_more(
    pipeline: PipelineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = pipeline.upload(document_text("late"))
    ending = threading.Event()
    monkeypatch.setattr("ingestion_pipeline.dagster_defs.interruption._ending", ending)
    ending.set()
    assert "nothing is due" in pipeline.tick("upload_sensor").skip_message
    assert pipeline.job(document_id)["claimed_by"] is None
    ending.clear()
    assert pipeline.tick("upload_sensor").run_requests
