"""Dagster forgets what was settled long ago; Postgres and search do not, and what is wanted again comes back."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from uuid import UUID

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from ingestion_pipeline.adapters.postgres.partitions import PostgresPartitions
from ingestion_pipeline.cli.partitions import partitions
from ingestion_pipeline.dagster_defs import retention
from ingestion_pipeline.dagster_defs.assets import DOCUMENTS
from ingestion_pipeline.dagster_defs.retention import delete_runs
from ingestion_pipeline.domain import State
from ingestion_pipeline.pipeline.report import Asset
from orchestration.pipeline_under_test import OWNER, PipelineUnderTest, document_text, failure_of, only

GREEN = dict.fromkeys([asset.value for asset in Asset], "green")
LONG_AGO = "update upload_pipeline.upload_jobs set state_changed_at = now() - interval '40 days'"


class LaterClock(datetime):
    """An hour ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "LaterClock":
        return super().now(tz) + timedelta(hours=1)


@pytest.fixture
def keeper(pipeline: PipelineUnderTest) -> PipelineUnderTest:
    """A pipeline that keeps partitions for 30 days."""
    return pipeline.with_limits(partition_retention_days=30.0)


def keys(pipeline: PipelineUnderTest) -> set[UUID]:
    return {UUID(key) for key in pipeline.instance.get_dynamic_partitions(str(DOCUMENTS.name))}


def completed(pipeline: PipelineUnderTest, *titles: str) -> list[UUID]:
    documents = [pipeline.upload(document_text(title)) for title in titles]
    pipeline.complete()
    assert {pipeline.document(document_id).state for document_id in documents} == {State.COMPLETE}
    return documents


def failed(pipeline: PipelineUnderTest, title: str) -> UUID:
    pipeline.mocks.script("llamacloud", "job_failure", operation="run_job", match=f"{title}.md", code="PDF_IS_BROKEN")
    document_id = pipeline.upload(document_text(title), f"{title}.md")
    pipeline.complete()
    assert pipeline.document(document_id).state is State.FAILED_PARSE
    return document_id


def ask_back(pipeline: PipelineUnderTest, **wanted: object) -> list[UUID]:
    asked: list[UUID] = pipeline.services.partitions.ask_back(limit=1000, **wanted)
    return asked


def test_a_document_settled_long_ago_loses_its_partition_and_nothing_else(keeper: PipelineUnderTest) -> None:
    old, young = completed(keeper, "old", "young")
    broken = failed(keeper, "broken")
    keeper.rows(f"{LONG_AGO} where document_id <> %s", str(young))
    before = keeper.catalogue.get(OWNER, old)
    assert "partitions retired 2" in keeper.tick("retention_sensor").skip_message
    assert keys(keeper) == {young}
    assert keeper.job(old)["retired_at"] is not None
    assert keeper.job(young)["retired_at"] is None
    assert keeper.catalogue.get(OWNER, old) == before
    vector = keeper.services.embedder.embed(["Paragraph 0 of old"]).vectors[0].tolist()
    hits = keeper.catalogue.search(OWNER, vector=vector, model=keeper.services.embedder.model, limit=10)
    assert {hit.document_id for hit in hits} == {old, young}
    assert {count.state: (count.documents, count.retired) for count in keeper.services.partitions.counts()} == {
        State.COMPLETE: (2, 1),
        State.FAILED_PARSE: (1, 1),
    }
    assert keeper.document(broken).last_error_code == "pdf_is_broken"


def test_what_is_retired_is_not_retired_again(keeper: PipelineUnderTest) -> None:
    completed(keeper, "old")
    keeper.rows(LONG_AGO)
    keeper.tick("retention_sensor")
    assert "partitions retired 0" in keeper.tick("retention_sensor").skip_message


def test_documents_at_work_or_held_by_a_run_keep_their_partitions(keeper: PipelineUnderTest) -> None:
    held, *_ = completed(keeper, "held")
    waiting = keeper.upload(document_text("waiting"))
    keeper.submit()
    keeper.services.documents.claim_documents([held], "a run that tells of it")
    keeper.rows(LONG_AGO)
    assert "partitions retired 0" in keeper.tick("retention_sensor").skip_message
    assert keys(keeper) == {held, waiting}


def test_one_tick_retires_a_portion_the_first_settled_first(
    keeper: PipelineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PARTITIONS_A_TICK", 2)
    documents = completed(keeper, "one", "two", "three")
    for days, document_id in zip((40, 60, 50), documents, strict=True):
        keeper.rows(
            "update upload_pipeline.upload_jobs set state_changed_at = now() - make_interval(days => %s) "
            "where document_id = %s", days, str(document_id),
        )  # fmt: skip
    keeper.tick("retention_sensor")
    assert keys(keeper) == {documents[0]}
    keeper.tick("retention_sensor")
    assert keys(keeper) == set()


def test_with_a_retention_of_0_days_everything_is_kept(pipeline: PipelineUnderTest) -> None:
    [document_id] = completed(pipeline, "old")
    pipeline.rows(LONG_AGO)
    forever = pipeline.with_limits(partition_retention_days=0.0)
    assert "everything is kept" in forever.tick("retention_sensor").skip_message
    assert keys(forever) == {document_id}


def test_a_crash_in_the_middle_leaves_documents_to_the_next_tick(
    keeper: PipelineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = completed(keeper, "one", "two")
    keeper.rows(LONG_AGO)
    forgotten: list[str] = []

    def forget_one_and_die(name: str, key: str) -> None:
        if forgotten:
            raise RuntimeError("killed")
        forgotten.append(key)

    with monkeypatch.context() as patched:
        patched.setattr(keeper.instance, "delete_dynamic_partition", forget_one_and_die)
        with pytest.raises(RuntimeError, match="killed"):
            keeper.tick("retention_sensor")
    assert {keeper.job(document_id)["retired_at"] for document_id in (one, two)} == {None}
    assert "partitions retired 2" in keeper.tick("retention_sensor").skip_message
    assert keys(keeper) == set()


def test_a_retired_dead_letter_that_is_retried_gets_its_partition_back_by_itself(keeper: PipelineUnderTest) -> None:
    broken = failed(keeper, "broken")
    keeper.rows(LONG_AGO)
    keeper.tick("retention_sensor")
    assert keys(keeper) == set()
    keeper.catalogue.retry(OWNER, broken, start_over=False)
    keeper.mocks.control("llamacloud", "DELETE", "faults")
    keeper.complete()
    assert keeper.document(broken).state is State.COMPLETE
    assert keys(keeper) == {broken}
    assert keeper.job(broken)["retired_at"] is None
    assert keeper.colours(broken) == GREEN


def test_partitions_that_were_asked_back_are_told_anew_and_stay(keeper: PipelineUnderTest) -> None:
    good, *_ = completed(keeper, "good")
    broken = failed(keeper, "broken")
    keeper.rows(LONG_AGO)
    keeper.tick("retention_sensor")
    delete_runs(keeper.instance, datetime.now(UTC) + timedelta(days=1), 100)  # Dagster remembers nothing
    assert set(ask_back(keeper, document_ids=[good, broken])) == {good, broken}
    assert ask_back(keeper, document_ids=[good, broken]) == []

    told = only(keeper.tick_and_run("retention_sensor", "process"))
    assert failure_of(told)[1].keys() == {str(broken)}
    assert keys(keeper) == {good, broken}
    assert keeper.colours(good) == GREEN
    assert keeper.colours(broken)["parsed"] == "red"
    assert {keeper.job(document_id)["retired_at"] for document_id in (good, broken)} == {None}
    assert "partitions retired 0" in keeper.tick("retention_sensor").skip_message
    keeper.rows("update upload_pipeline.upload_jobs set restored_at = now() - interval '31 days'")
    assert "partitions retired 2" in keeper.tick("retention_sensor").skip_message


def test_partitions_of_a_state_are_asked_back_up_to_a_number(keeper: PipelineUnderTest) -> None:
    completed(keeper, "one", "two", "three")
    broken = failed(keeper, "broken")
    keeper.rows(LONG_AGO)
    keeper.tick("retention_sensor")
    assert ask_back(keeper, state=State.FAILED_PARSE) == [broken]
    assert len(keeper.services.partitions.ask_back(state=State.COMPLETE, limit=2)) == 2
    counts = {count.state: (count.retired, count.awaited) for count in keeper.services.partitions.counts()}
    assert counts == {State.COMPLETE: (3, 2), State.FAILED_PARSE: (1, 1)}


def test_a_tick_that_dies_after_it_claimed_what_it_restores_is_made_good(
    keeper: PipelineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    [document_id] = completed(keeper, "one")
    keeper.rows(LONG_AGO)
    keeper.tick("retention_sensor")
    delete_runs(keeper.instance, datetime.now(UTC) + timedelta(days=1), 100)
    ask_back(keeper, document_ids=[document_id])

    def die(store: PostgresPartitions, document_ids: list[UUID]) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(PostgresPartitions, "restored", die)
        with pytest.raises(RuntimeError, match="killed"):
            keeper.tick("retention_sensor")
    keeper.tick("retention_sensor")
    keeper.expire_claims()
    only(keeper.tick_and_run("reconcile_sensor", "process"))
    assert keeper.colours(document_id) == GREEN
    assert keeper.job(document_id)["retired_at"] is None


def test_old_runs_go_with_their_events_checks_and_nothing_of_others(keeper: PipelineUnderTest) -> None:
    [first] = completed(keeper, "first")
    between = datetime.now(UTC)
    [second] = completed(keeper, "second")
    assert len(keeper.instance.get_runs()) == 4
    assert delete_runs(keeper.instance, between, 1) == 1
    assert delete_runs(keeper.instance, between, 10) == 1
    assert delete_runs(keeper.instance, between, 10) == 0
    assert len(keeper.instance.get_runs()) == 2
    assert keeper.materialised(Asset.FINALIZED, first) == {}
    assert keeper.materialised(Asset.FINALIZED, second)["filename"] == "notes.md"
    for asset, check in ((Asset.RAW_UPLOAD, "upload_is_intact"), (Asset.FINALIZED, "served_equals_buffered")):
        assert keeper.verdicts(asset, check) == {second: True}


def test_runs_stay_as_long_as_documents_wait_to_be_retired(
    keeper: PipelineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PARTITIONS_A_TICK", 1)
    completed(keeper, "one")
    keeper.rows(LONG_AGO)
    hasty = keeper.with_limits(partition_retention_days=1e-4)
    monkeypatch.setattr(retention, "datetime", LaterClock)
    assert "partitions retired 1, old runs deleted 0" in hasty.tick("retention_sensor").skip_message
    assert "partitions retired 0, old runs deleted 2" in hasty.tick("retention_sensor").skip_message


def test_runs_at_work_are_not_deleted_however_old(keeper: PipelineUnderTest) -> None:
    run = keeper.instance.create_run_for_job(
        keeper.definitions.resolve_job_def("process"), status=dg.DagsterRunStatus.STARTED
    )
    assert delete_runs(keeper.instance, datetime.now(UTC) + timedelta(days=1), 10) == 0
    assert keeper.instance.get_run_by_id(run.run_id) is not None


@pytest.fixture
def ingest_partitions(
    pipeline: PipelineUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs `ingest partitions` in this process; returns what it said."""
    monkeypatch.chdir(tmp_path)  # no .env of somebody else counts
    settings = {"INGEST_DATABASE_URL": pipeline.owner_url}
    return lambda *arguments: CliRunner(env=settings).invoke(partitions, arguments)


def test_the_command_shows_what_is_retired_and_asks_it_back(
    keeper: PipelineUnderTest, ingest_partitions: Callable[..., Result]
) -> None:
    one, two = completed(keeper, "one", "two")
    keeper.rows(LONG_AGO)
    keeper.tick("retention_sensor")
    shown = ingest_partitions("status").output.splitlines()
    assert [line.split() for line in shown] == [
        ["State", "Documents", "Retired", "Awaited"],
        ["complete", "2", "2", "0"],
    ]
    assert ingest_partitions("restore", str(one)).output == "1 asked back\n"
    again = ingest_partitions("restore", str(one)).output
    assert again.startswith("0 asked back\nThe others have their partition")
    assert ingest_partitions("restore", "--state", "complete").output == "1 asked back\n"
    keeper.tick("retention_sensor")
    assert keys(keeper) == {one, two}


@pytest.mark.parametrize("arguments", [["restore"], ["restore", str(UUID(int=1)), "--state", "complete"]])
def test_the_command_takes_either_ids_or_a_state(
    ingest_partitions: Callable[..., Result], arguments: list[str]
) -> None:
    refused = ingest_partitions(*arguments)
    assert refused.exit_code == 2
    assert "Give the ids of documents, or --state." in refused.output
