"""Dagster's partitions against the documents: what an operator sees is made to be what the database says."""

from uuid import UUID, uuid4

import dagster as dg

from ingestion_pipeline.domain import State
from ingestion_pipeline.pipeline.report import Asset
from orchestration.audited_pipeline import AuditedPipeline
from orchestration.pipeline_under_test import document_text


def partitions(audited: AuditedPipeline) -> set[str]:
    return set(audited.pipeline.instance.get_dynamic_partitions("documents"))


def one_good_and_one_bad(audited: AuditedPipeline) -> tuple[UUID, UUID]:
    """A complete document and a dead letter, as their runs left them."""
    audited.pipeline.mocks.script("llamacloud", "job_failure", match="bad.md", times=1, code="PDF_IS_BROKEN")
    good = audited.pipeline.upload(document_text("good"))
    bad = audited.pipeline.upload(document_text("bad"), name="bad.md")
    audited.pipeline.complete()
    assert audited.pipeline.document(bad).state is State.FAILED_PARSE
    assert audited.found() == {}
    return good, bad


def test_partitions_of_no_document_are_removed(audited: AuditedPipeline) -> None:
    [document_id] = audited.completed("one")
    orphans = {str(uuid4()), "of-no-document"}
    audited.pipeline.instance.add_dynamic_partitions("documents", sorted(orphans))
    assert audited.found() == {key: {"partition_orphaned"} for key in orphans}
    assert audited.fixed() == {"partition_orphaned": (2, 2)}
    assert partitions(audited) == {str(document_id)}
    assert audited.found() == {}


def test_partitions_that_dagster_lost_come_back_with_what_they_showed(audited: AuditedPipeline) -> None:
    good, bad = one_good_and_one_bad(audited)
    for document_id in (good, bad):
        audited.pipeline.instance.delete_dynamic_partition("documents", str(document_id))
    assert audited.found() == {str(each): {"partition_missing"} for each in (good, bad)}
    assert audited.fixed() == {"partition_missing": (2, 2)}
    assert partitions(audited) == {str(good), str(bad)}
    told = audited.pipeline.tick_and_run("reconcile_sensor", "process")
    assert len(told) == 1
    assert audited.pipeline.colours(good)["finalized"] == "green"
    assert audited.pipeline.colours(bad)["parsed"] == "red"
    assert audited.found() == {}


def test_what_dagster_never_heard_of_is_told_again(audited: AuditedPipeline) -> None:
    good, bad = one_good_and_one_bad(audited)
    audited.pipeline.instance.wipe_assets([dg.AssetKey(asset.value) for asset in Asset])
    assert audited.found(grace_seconds=300) == {}  # a run may be about to tell
    assert audited.found() == {str(each): {"partition_untold"} for each in (good, bad)}
    assert audited.fixed() == {"partition_untold": (2, 2)}
    audited.pipeline.tick_and_run("reconcile_sensor", "process")
    assert set(audited.pipeline.colours(good).values()) == {"green"}
    assert audited.pipeline.colours(bad)["parsed"] == "red"
    assert audited.found() == {}


def test_a_partition_of_the_wrong_colour_or_of_another_asset_is_found(audited: AuditedPipeline) -> None:
    good, bad = one_good_and_one_bad(audited)
    audited.damage(
        "update upload_pipeline.upload_jobs set state = 'complete', last_error_code = null where document_id = %(id)s"
        "; update upload_pipeline.upload_jobs as j set state = 'failed_embedding', last_error_code = 'check_failed',"
        " last_error_stage = 'embeddings' where document_id = (select document_id from upload_pipeline.documents"
        " where document_id <> %(id)s)",
        bad,
    )
    found = audited.found(codes=frozenset({"partition_untold"}))
    assert found == {str(each): {"partition_untold"} for each in (good, bad)}


def test_cancelled_documents_and_those_at_work_need_no_partition(audited: AuditedPipeline) -> None:
    for title in ("one", "two"):
        audited.pipeline.upload(document_text(title))
    audited.damage(
        "update upload_pipeline.upload_jobs set state = 'cancelled' where document_id ="
        " (select document_id from upload_pipeline.documents order by created_at limit 1)"
    )
    assert audited.found() == {}


def test_retired_documents_are_not_missed_in_dagster(audited: AuditedPipeline) -> None:
    one_good_and_one_bad(audited)
    audited.pipeline.rows("update upload_pipeline.upload_jobs set state_changed_at = now() - interval '2 days'")
    audited.pipeline.with_limits(partition_retention_days=1.0).tick("retention_sensor")
    assert partitions(audited) == set()
    assert audited.found() == {}
