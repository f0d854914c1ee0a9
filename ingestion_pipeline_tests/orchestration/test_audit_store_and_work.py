"""Objects without documents, rows without one another, and work that nobody does: found, and mended where it can be."""

import os
from pathlib import Path
from uuid import uuid4

import pytest

from ingestion_pipeline.domain import State
from orchestration.audited_pipeline import AuditedPipeline
from orchestration.pipeline_under_test import OWNER, document_text

DAYS_AGO = 3 * 24 * 3600


def put_old(audited: AuditedPipeline, objects: Path, key: str) -> str:
    """An object that was written days ago."""
    audited.pipeline.services.objects.put(key, b"some bytes")
    make_old(objects / key)
    return key


def make_old(path: Path) -> None:
    written = path.stat().st_mtime - DAYS_AGO
    os.utime(path, (written, written))


def keys_of(objects: Path) -> set[str]:
    return {str(path.relative_to(objects)) for path in objects.rglob("*") if path.is_file()}


def test_old_objects_of_no_document_are_swept_and_young_ones_kept(audited: AuditedPipeline, tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    audited.completed("one", "two")
    for path in objects.rglob("*.*"):
        make_old(path)
    kept = keys_of(objects)
    young = f"raw/{OWNER}/{uuid4()}"  # an upload whose row may come in a moment
    foreign = put_old(audited, objects, "backups/of-somebody-else")
    audited.pipeline.services.objects.put(young, b"some bytes")
    orphans = {
        put_old(audited, objects, f"raw/{OWNER}/{uuid4()}"),
        put_old(audited, objects, f"parsed/{OWNER}/{uuid4()}.md"),
        put_old(audited, objects, "parsed/of-no-document.md"),
        put_old(audited, objects, f"checks/{uuid4()}"),
    }
    assert audited.found() == {key: {"object_orphaned"} for key in orphans}
    assert keys_of(objects) == {*kept, young, foreign, *orphans}
    assert audited.fixed() == {"object_orphaned": (4, 4)}
    assert keys_of(objects) == {*kept, young, foreign}
    assert audited.found(orphan_seconds=0) == {young: {"object_orphaned"}}


def test_the_text_of_a_document_at_work_is_kept_though_no_row_speaks_of_it_yet(
    audited: AuditedPipeline, tmp_path: Path
) -> None:
    objects = tmp_path / "objects"
    document_id = audited.pipeline.upload(document_text("one"))
    text = put_old(audited, objects, f"parsed/{OWNER}/{document_id}.md")
    assert audited.found() == {}
    audited.damage("update upload_pipeline.upload_jobs set state = 'cancelled'")
    assert audited.found() == {text: {"object_orphaned"}}


def test_a_text_is_kept_whatever_its_key_is_like(audited: AuditedPipeline, tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    [document_id] = audited.completed("one")
    (objects / (audited.pipeline.document(document_id).parsed_key or "")).rename(objects / "parsed" / "elsewhere.md")
    make_old(objects / "parsed" / "elsewhere.md")
    audited.damage("update upload_pipeline.documents set parsed_key = 'parsed/elsewhere.md'")
    assert audited.fixed() == {}


def test_a_document_without_a_job_begins_anew(audited: AuditedPipeline) -> None:
    [document_id] = audited.completed("one")
    audited.damage("delete from upload_pipeline.upload_jobs")
    assert audited.found() == {str(document_id): {"job_missing"}}
    assert audited.fixed() == {"job_missing": (1, 1)}
    audited.pipeline.complete()
    assert audited.pipeline.document(document_id).state is State.COMPLETE
    assert audited.found() == {}


def test_a_job_without_a_document_is_dropped(audited: AuditedPipeline) -> None:
    [document_id] = audited.completed("one")
    audited.damage(
        "insert into upload_pipeline.upload_jobs (document_id, owner_id, correlation_id)"
        " values (%(id)s, %(id)s, %(id)s)",
        lonely := uuid4(),
    )
    assert audited.found() == {str(lonely): {"document_missing"}}
    assert audited.fixed() == {"document_missing": (1, 1)}
    assert audited.pipeline.job(document_id)["state"] == "complete"
    assert audited.found() == {}


def test_a_job_of_another_owner_is_given_back(audited: AuditedPipeline) -> None:
    [document_id] = audited.completed("one")
    audited.damage("update upload_pipeline.upload_jobs set owner_id = gen_random_uuid()")
    assert audited.found() == {str(document_id): {"owner_differs"}}
    assert audited.fixed() == {"owner_differs": (1, 1)}
    assert audited.pipeline.job(document_id)["owner_id"] == OWNER
    assert audited.pipeline.job(document_id)["state"] == "complete"


def test_what_belongs_to_two_documents_and_an_id_of_another_content_are_reported(audited: AuditedPipeline) -> None:
    one, two = (audited.pipeline.upload(document_text(title)) for title in ("one", "two"))
    audited.pipeline.submit()
    key, job_id = audited.pipeline.document(one).object_key, audited.pipeline.document(one).parse_job_id
    audited.damage(f"update upload_pipeline.upload_jobs set parse_job_id = '{job_id}' where document_id = %(id)s", two)
    audited.damage(
        f"update upload_pipeline.documents set object_key = '{key}', owner_id = gen_random_uuid()"
        " where document_id = %(id)s",
        two,
    )
    found = audited.found()
    assert (found[key], found[str(job_id)]) == ({"file_shared"}, {"parse_job_shared"})
    assert found[str(two)] == {"id_differs", "owner_differs", "raw_altered"}
    assert str(one) not in found


def test_a_claim_that_nobody_gave_back_is_given_back(audited: AuditedPipeline) -> None:
    complete, waiting = *audited.completed("one"), audited.pipeline.upload(document_text("two"))
    audited.pipeline.tick("upload_sensor")
    audited.damage(
        "update upload_pipeline.upload_jobs set claimed_by = coalesce(claimed_by, 'run'), claim_expires_at = now()"
    )
    assert audited.found(grace_seconds=300) == {}  # the reconcile sensor may be about to
    assert audited.found() == {str(complete): {"claim_lost"}, str(waiting): {"claim_lost"}}
    assert audited.fixed() == {"claim_lost": (2, 2)}
    job = audited.pipeline.job(waiting)
    assert (job["claimed_by"], job["last_error_code"], job["attempt"]) == (None, "worker_lost", 1)
    [told] = audited.pipeline.tick_and_run("reconcile_sensor", "process")  # Dagster may not know of the complete one
    assert told.success
    audited.pipeline.due_now()
    audited.pipeline.complete()
    assert audited.pipeline.document(waiting).state is State.COMPLETE


def test_a_batch_of_a_run_that_died_is_closed_and_one_at_work_is_not(audited: AuditedPipeline) -> None:
    for title in ("one", "two"):
        audited.pipeline.upload(document_text(title))
        audited.pipeline.tick("upload_sensor")
    dead, alive = (
        row["batch_id"]
        for row in audited.pipeline.rows(
            "select batch_id::text from upload_pipeline.ingestion_batches order by created_at"
        )
    )
    audited.damage("update upload_pipeline.ingestion_batches set created_at = now() - interval '2 hours'")
    audited.damage(
        f"update upload_pipeline.upload_jobs set claimed_by = null, claim_expires_at = null where claimed_by = '{dead}'"
    )
    assert audited.found() == {dead: {"batch_unfinished"}}
    assert audited.fixed() == {"batch_unfinished": (1, 1)}
    assert audited.pipeline.rows(
        "select batch_id::text from upload_pipeline.ingestion_batches where finished_at is null"
    ) == [{"batch_id": alive}]


def test_work_that_nobody_takes_is_reported_and_a_queue_that_moves_is_not(audited: AuditedPipeline) -> None:
    waiting, parsing = (audited.pipeline.upload(document_text(title)) for title in ("one", "two"))
    audited.damage(
        "update upload_pipeline.upload_jobs set state = 'parse_queued', parse_job_id = 'job',"
        " parse_poll_at = now() - interval '2 hours' where document_id = %(id)s",
        parsing,
    )
    audited.damage(
        "update upload_pipeline.upload_jobs set next_attempt_at = now() - interval '2 hours'"
        " where document_id = %(id)s",
        waiting,
    )
    assert audited.found() == {"lane submit": {"work_stalled"}, "parse jobs": {"work_stalled"}}
    assert audited.fixed() == {"work_stalled": (2, 0)}
    audited.pipeline.upload(document_text("three"))
    audited.pipeline.services.documents.claim_documents([waiting], "run")  # somebody works in this lane
    audited.damage(
        "update upload_pipeline.upload_jobs set next_attempt_at = now() - interval '2 hours' where claimed_by is null"
    )
    assert audited.found() == {"parse jobs": {"work_stalled"}}


def test_a_parse_job_that_does_not_end_is_submitted_anew(audited: AuditedPipeline) -> None:
    audited.pipeline.mocks.script("llamacloud", "never_finish", operation="run_job", times=1)
    document_id = audited.pipeline.upload(document_text("one"))
    audited.pipeline.submit()
    first = audited.pipeline.document(document_id).parse_job_id
    assert audited.found() == {}
    audited.damage("update upload_pipeline.upload_jobs set state_changed_at = now() - interval '25 hours'")
    assert audited.found() == {str(document_id): {"parsing_endless"}}
    assert audited.fixed() == {"parsing_endless": (1, 1)}
    assert audited.pipeline.document(document_id).parse_round == 2
    audited.pipeline.complete()
    document = audited.pipeline.document(document_id)
    assert (document.state, document.parse_job_id == first) == (State.COMPLETE, False)


@pytest.mark.parametrize("codes", [{"raw_missing"}, {"object_orphaned"}, {"partition_orphaned"}])
def test_an_audit_for_one_thing_finds_nothing_else(audited: AuditedPipeline, tmp_path: Path, codes: set[str]) -> None:
    document_id, _ = audited.completed("one", "two")
    (tmp_path / "objects" / audited.pipeline.document(document_id).object_key).unlink()
    audited.damage("update upload_pipeline.document_chunks set text = 'x'")
    put_old(audited, tmp_path / "objects", f"raw/{OWNER}/{uuid4()}")
    audited.pipeline.instance.add_dynamic_partitions("documents", ["of-no-document"])
    found = audited.found(codes=frozenset(codes))
    assert set().union(*found.values()) == codes
    assert len(found) == 1
