"""`ingest audit` as a process: what it prints, its exit status, where it takes its settings from."""

import json
import os
from pathlib import Path

import pytest
from command_line import run_ingest
from conftest import DatabaseUrls
from stored_documents import OWNER, sql

from ingestion_pipeline.domain import document_id_for, sha256_of

CONTENT = "# A pump\n\nIt leaks.\n"


@pytest.fixture
def settings(database_urls: DatabaseUrls, tmp_path: Path) -> dict[str, str]:
    """A worker's settings; one document was uploaded, and its file is not there."""
    sha256 = sha256_of(CONTENT)
    sql(
        database_urls.owner,
        "with uploaded as (insert into upload_pipeline.documents (document_id, owner_id, filename, content_type, "
        "size_bytes, sha256, object_key) values (%s, %s, 'manual.md', 'text/markdown', %s, %s, 'raw/manual.md') "
        "returning document_id, owner_id) insert into upload_pipeline.upload_jobs (document_id, owner_id, "
        "correlation_id) select document_id, owner_id, document_id from uploaded",
        (document_id_for(OWNER, sha256), OWNER, len(CONTENT), sha256),
    )
    return {
        "INGEST_WORKER_DATABASE_URL": database_urls.worker,
        "INGEST_OBJECT_STORE_DIR": str(tmp_path / "objects"),
        "INGEST_DATA_DIR": str(tmp_path / "data"),
    }


def test_findings_are_listed_with_what_is_to_be_done_and_end_in_status_1(
    settings: dict[str, str], tmp_path: Path
) -> None:
    done = run_ingest("audit", "--only", "raw_missing", settings=settings, directory=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "raw_missing" in done.stdout
    assert "raw/manual.md" in done.stdout
    assert "restore the object from a backup" in " ".join(done.stdout.split())
    assert done.stdout.splitlines()[-1] == "Looked at: documents 1. Findings 1, mended 0, left 1."
    reported = run_ingest("audit", "--only", "raw_missing", "--json", settings=settings, directory=tmp_path)
    assert reported.returncode == 1
    report = json.loads(reported.stdout)
    assert (report["examined"], report["found"], report["left"]) == ({"documents": 1}, 1, 1)
    assert [(finding["code"], finding["found"]) for finding in report["findings"]] == [("raw_missing", 1)]


def test_what_is_whole_or_mended_ends_in_status_0(settings: dict[str, str], tmp_path: Path) -> None:
    files = tmp_path / "objects" / "raw"
    files.mkdir(parents=True)
    (files / "manual.md").write_text(CONTENT)
    whole = run_ingest("audit", settings=settings, directory=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout == "Looked at: documents 1, objects 1, partitions 0. Everything agrees.\n"

    orphan = files / "orphan"
    orphan.write_text("never recorded")
    os.utime(orphan, (0, 0))
    sweep = ("audit", "--only", "object_orphaned")
    assert run_ingest(*sweep, settings=settings, directory=tmp_path).returncode == 1
    assert orphan.exists()
    mended = run_ingest(*sweep, "--fix", settings=settings, directory=tmp_path)
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.endswith("Findings 1, mended 1, left 0.\n")
    assert [path.name for path in files.iterdir()] == ["manual.md"]


def test_a_database_that_was_never_migrated_is_told_by_the_name_of_its_setting(
    settings: dict[str, str], empty_database_url: str, tmp_path: Path
) -> None:
    settings["INGEST_WORKER_DATABASE_URL"] = empty_database_url
    done = run_ingest("audit", "--only", "raw_missing", settings=settings, directory=tmp_path)
    assert done.returncode == 1
    assert "INGEST_WORKER_DATABASE_URL has no ingestion schema" in done.stderr
