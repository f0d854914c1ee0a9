"""The checker of the fault matrix, held against stores that were damaged on purpose."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from ingestion_pipeline_tests.faults.journal import Journal, Purchases, purchases
from ingestion_pipeline_tests.faults.room import Room, Scene, texts
from ingestion_pipeline_tests.faults.verdict import Explained, judge

FEW = 6


def damage(scene: Scene, *statements: str) -> None:
    """Change the rows of one of the documents."""
    scene.change(*statements, document_id=min(scene.uploaded))


def pay_again(scene: Scene) -> None:
    """Embed a text that was embedded before, past the journal."""
    [(text,)] = scene.rows("select text from upload_pipeline.document_chunks limit 1")
    asked = {"input": [text], "model": "text-embedding-3-small"}
    key = {"Authorization": "Bearer sk-mock"}
    requests.post(f"{scene.mocks.openai_base_url}/embeddings", json=asked, headers=key, timeout=10).raise_for_status()


def parse_again(scene: Scene) -> None:
    """Give the parser a document that it has had."""
    key = {"Authorization": "Bearer llx-mock"}
    root = scene.mocks.llamacloud_url
    form = {"purpose": (None, "parse"), "file": ("notes.md", b"# Text", "text/markdown")}
    file = requests.post(f"{root}/api/v1/beta/files", files=form, headers=key, timeout=10).json()
    asked = {
        "file_id": file["id"], "tier": "cost_effective", "version": "latest",
        "user_metadata": {"document_id": str(min(scene.uploaded))},
    }  # fmt: skip
    requests.post(f"{root}/api/v2/parse", json=asked, headers=key, timeout=10).raise_for_status()


DOUBLED_CHUNK = (
    "insert into upload_pipeline.document_chunks select (json_populate_record(c, json_build_object('chunk_id', "
    f"'{uuid4()}', 'ordinal', c.ordinal + 100))).* from upload_pipeline.document_chunks as c"
    " where document_id = :id and ordinal = 0"
)
BUFFER_LEFT = (
    "insert into upload_pipeline.document_chunk_buffer (chunk_id, document_id, owner_id, ordinal, start_offset,"
    " end_offset, first_page, last_page, heading_path, token_count, chunk_sha256, text)"
    " select chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, first_page, last_page, heading_path,"
    " token_count, chunk_sha256, text from upload_pipeline.document_chunks where document_id = :id"
)
DAMAGES: dict[str, Callable[[Scene], None]] = {
    "documents lost": lambda scene: scene.forget(min(scene.uploaded)),
    "documents stuck": lambda scene: damage(
        scene, "update upload_pipeline.upload_jobs set state = 'chunks_stored' where document_id = :id"
    ),
    "documents with another end": lambda scene: damage(
        scene, "update upload_pipeline.upload_jobs set state = 'failed_embedding', last_error_code = 'x',"
        " last_error_message = 'x', last_error_stage = 'embeddings' where document_id = :id",
    ),
    "chunks and vectors are not each there once: 1": lambda scene: damage(scene, DOUBLED_CHUNK),
    "are not each there once": lambda scene: damage(scene, BUFFER_LEFT),
    "found by the audit: served_altered": lambda scene: damage(
        scene, "update upload_pipeline.document_chunks set text = text || '!' where document_id = :id"
    ),
    "paid for twice that were not in flight: 1": pay_again,
    "parse jobs too many: 1": parse_again,
}  # fmt: skip


@pytest.mark.parametrize("wrong", DAMAGES)
def test_whatever_is_wrong_is_found(room: Room, wrong: str) -> None:
    with room.scene() as scene:
        scene.upload(texts("damaged", FEW))
        scene.end_fault()
        scene.start_workers(1)
        scene.wait_until_settled()
        assert judge(scene, Explained()).problems() == []
        DAMAGES[wrong](scene)
        assert wrong in " ".join(judge(scene, Explained()).problems())


def test_a_document_that_should_have_failed_and_did_not_is_found(room: Room) -> None:
    with room.scene() as scene:
        scene.upload(texts("survivor", 1))
        scene.end_fault()
        scene.start_workers(1)
        scene.wait_until_settled()
        [survivor] = scene.uploaded
        assert judge(scene, Explained(dead_letters={survivor: "no_text"})).wrong_fate == 1


@pytest.mark.parametrize(
    ("events", "found"),
    [
        (["sent abc"], Purchases(unstored=3, spoiled=0)),
        (["sent abc", "answered", "stored abc"], Purchases(unstored=0, spoiled=0)),
        (["sent abc", "answered", "stored a"], Purchases(unstored=2, spoiled=0)),
        (["sent abc", "spoiled", "sent abc", "answered", "stored abc"], Purchases(unstored=0, spoiled=3)),
        (["sent abc", "unsent", "sent abc", "answered", "stored abc"], Purchases(unstored=0, spoiled=0)),
        (["sent abc", "answered", "sent de", "answered", "stored de"], Purchases(unstored=3, spoiled=0)),
    ],
)
def test_the_journal_tells_what_was_in_flight(tmp_path: Path, events: list[str], found: Purchases) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    for event in events:
        name, _, letters = event.partition(" ")
        journal.note(name, **({"texts": list(letters)} if letters else {}))
    assert purchases(path) == found
