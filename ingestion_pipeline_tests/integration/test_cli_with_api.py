"""`ingest` against the real API and PostgreSQL; with stand-in workers where documents have to arrive."""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from command_line import run_ingest, start_ingest
from conftest import DatabaseUrls
from running_api import KEY, RunningApi, WordEmbedder, execute
from standin_workers import MeaningfulEmbedder, StandInWorkers, fail_parse

Run = Callable[..., subprocess.CompletedProcess[str]]


def settings_of(api: RunningApi) -> dict[str, str]:
    return {"INGEST_API_URL": api.url, "INGEST_API_KEY": KEY}


@pytest.fixture
def ingest(api: RunningApi, tmp_path: Path) -> Run:
    """Runs `ingest` with the API's address and key."""
    return lambda *arguments: run_ingest(*arguments, settings=settings_of(api), directory=tmp_path)


def workers(database_urls: DatabaseUrls, tmp_path: Path) -> StandInWorkers:
    return StandInWorkers(database_urls.owner, tmp_path / "objects", WordEmbedder())


def write(folder: Path, **texts: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return [folder / f"{name}.txt" for name in texts]


def test_a_folder_is_uploaded_and_what_the_api_refuses_is_a_row_with_the_reason(tmp_path: Path, ingest: Run) -> None:
    folder = tmp_path / "given"
    write(folder, one="The first text.", two="The second text.")
    (folder / "big picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500_000))
    (folder / "too-large.txt").write_text("long " * 2_000_000)
    (folder / "empty.md").touch()
    (folder / ".hidden.txt").write_text("hidden")
    (folder / 'Übersicht "neu".txt').write_text("A name with more than ASCII.")
    done = ingest("upload", "--no-wait", "--json", folder)
    assert done.returncode == 1
    rows = {Path(row["path"]).name: row for row in json.loads(done.stdout)}
    assert {name: (row["state"], row["code"]) for name, row in rows.items()} == {
        "big picture.png": ("refused", "unsupported_type"),
        "empty.md": ("refused", "empty_file"),
        "one.txt": ("uploaded", None),
        "too-large.txt": ("refused", "too_large"),
        "two.txt": ("uploaded", None),
        'Übersicht "neu".txt': ("uploaded", None),
    }
    assert "is not supported" in rows["big picture.png"]["reason"]
    listed = ingest("status")
    assert "Übersicht" in listed.stdout


def test_what_arrives_at_the_api_is_the_file_byte_by_byte(tmp_path: Path, ingest: Run) -> None:
    file = tmp_path / "bytes.txt"
    file.write_text("ä\r\n--boundary\r\n" * 50_000)
    done = ingest("upload", "--no-wait", "--json", file)
    assert done.returncode == 0, done.stderr
    stored = [path for path in (tmp_path / "objects" / "raw").rglob("*") if path.is_file()]
    assert [hashlib.sha256(path.read_bytes()).digest() for path in stored] == [
        hashlib.sha256(file.read_bytes()).digest()
    ]


def test_the_same_file_again_is_the_same_document(tmp_path: Path, ingest: Run) -> None:
    (file,) = write(tmp_path / "given", one="The same text.")
    first, second = (json.loads(ingest("upload", "--no-wait", "--json", file).stdout)[0] for _ in range(2))
    assert first["document_id"] == second["document_id"]
    assert (first["is_new"], second["is_new"]) == (True, False)


def test_an_upload_waits_until_its_documents_are_complete(
    tmp_path: Path, ingest: Run, database_urls: DatabaseUrls
) -> None:
    write(tmp_path / "given", one="Ships sail.", two="Trains roll.")
    with workers(database_urls, tmp_path).working():
        done = ingest("upload", tmp_path / "given")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if ".txt" in line]
    assert len(lines) == 2
    assert all("complete" in line for line in lines)


def test_an_upload_that_is_not_settled_in_time_ends_with_status_1_and_says_so(tmp_path: Path, ingest: Run) -> None:
    (file,) = write(tmp_path / "given", one="Nobody works on this.")
    done = ingest("upload", "--timeout", "0.5", file)
    assert done.returncode == 1
    assert "uploaded" in done.stdout
    assert "Given up after 0.5 s" in done.stdout


def test_the_status_of_a_failed_document_tells_history_reason_and_remedy(
    tmp_path: Path, ingest: Run, database_urls: DatabaseUrls
) -> None:
    (file,) = write(tmp_path / "given", one="This will fail.")
    uploaded = ingest("upload", "--no-wait", "--json", file)
    document_id = json.loads(uploaded.stdout)[0]["document_id"]
    fail_parse(database_urls.owner, document_id, "pdf_is_broken", "The PDF is damaged.")
    done = ingest("status", document_id)
    assert done.returncode == 0, done.stderr
    assert "[pdf_is_broken] The PDF is damaged. (raw_upload)" in done.stdout
    assert "save or print it to a new PDF" in done.stdout
    assert [line.split()[3] for line in done.stdout.splitlines() if line.startswith("20")] == [
        "uploaded",
        "failed_parse",
    ]
    counted = ingest("status", "--state", "failed_parse")
    assert document_id in counted.stdout
    again = ingest("upload", file)
    assert again.returncode == 1
    assert "The PDF is damaged." in again.stdout


def test_an_unknown_document_is_one_clear_error(ingest: Run) -> None:
    done = ingest("status", str(uuid4()))
    assert done.returncode == 1
    assert done.stderr.startswith("error [not_found]: There is no document ")


def test_watching_one_document_ends_when_it_is_settled(
    tmp_path: Path, api: RunningApi, ingest: Run, database_urls: DatabaseUrls
) -> None:
    (file,) = write(tmp_path / "given", one="Watched.")
    uploaded = ingest("upload", "--no-wait", "--json", file)
    document_id = json.loads(uploaded.stdout)[0]["document_id"]
    with start_ingest("status", "--watch", document_id, settings=settings_of(api), directory=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{document_id}: uploaded\n"
        fail_parse(database_urls.owner, document_id, "pdf_is_broken", "The PDF is damaged.")
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert output.startswith(f"{document_id}: failed_parse\n")


def test_the_demo_uploads_the_samples_and_finds_the_right_document_for_each_question(
    tmp_path: Path, database_urls: DatabaseUrls
) -> None:
    embedder = MeaningfulEmbedder()
    api = RunningApi(database_urls.api, tmp_path / "objects", {"embedder": embedder})
    api.start()
    try:
        with StandInWorkers(database_urls.owner, tmp_path / "objects", embedder).working():
            done = run_ingest("demo", settings=settings_of(api), directory=tmp_path)
        question = ("search", "--json", "--limit", "2", "How many weeks of parental leave?")
        found = run_ingest(*question, settings=settings_of(api), directory=tmp_path)
    finally:
        api.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 documents complete, 3 of 3 questions found their document first: the demo succeeded." in done.stdout
    assert "$250 copayment" in done.stdout
    hits = json.loads(found.stdout)
    assert [len(hits), hits[0]["filename"]] == [2, "employee-handbook.md"]


def test_a_demo_that_nobody_works_on_fails(tmp_path: Path, ingest: Run) -> None:
    done = ingest("demo", "--timeout", "1")
    assert done.returncode == 1
    assert "The demo FAILED" in done.stdout


def test_a_search_that_finds_nothing_says_where_to_look(tmp_path: Path, ingest: Run) -> None:
    done = ingest("search", "anything")
    assert done.returncode == 0
    assert "`ingest status` shows where they are" in done.stdout


def test_a_wrong_key_is_one_clear_error(tmp_path: Path, api: RunningApi) -> None:
    settings = settings_of(api) | {"INGEST_API_KEY": "ik-another-key-entirely"}
    done = run_ingest("upload", *write(tmp_path / "given", one="x"), settings=settings, directory=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error [not_authenticated]: ")
    assert done.stdout == ""


def test_usage_is_shown_by_day_and_as_the_api_tells_it(
    api: RunningApi, ingest: Run, database_urls: DatabaseUrls
) -> None:
    api.get("/search", params={"q": "three little words"})
    shown = ingest("usage")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"openai +embed_query +text-embedding-3-small +1 +3 +0 +0.000000", shown.stdout)
    told = json.loads(ingest("usage", "--json", "--from", "2026-01-01", "--to", "2026-01-31").stdout)
    assert (told["from"], told["to"], told["days"]) == ("2026-01-01", "2026-01-31", [])
    refused = ingest("usage", "--from", "2020-01-01", "--to", "2026-01-31")
    assert (refused.returncode, "invalid_request" in refused.stderr) == (1, True)


def test_status_says_which_vendor_is_paused(ingest: Run, database_urls: DatabaseUrls) -> None:
    assert "paused" not in ingest("status").stdout
    execute(
        database_urls.owner,
        "insert into upload_pipeline.vendor_breakers (vendor, state, reopens_at, last_error_code, last_error_at)"
        " values ('openai', 'open', now() + interval '1 minute', 'rate_limited', now())",
    )
    assert re.search(r"openai is paused until .*, ill since .*: rate_limited", ingest("status").stdout)
