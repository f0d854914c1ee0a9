"""Damage to documents on their way, and audits beside a pipeline at work: nothing is reported that is only a moment."""

import threading
from pathlib import Path
from uuid import UUID

import pytest

from ingestion_pipeline.domain import State
from ingestion_pipeline.errors import ObjectMissingError, StoreUnavailableError
from orchestration.audited_pipeline import AuditedPipeline
from orchestration.faulty_ports import Around
from orchestration.pipeline_under_test import document_text

CHUNK = "where document_id = %(id)s and ordinal = 1"
VECTOR = (
    "where chunk_id = (select b.chunk_id from upload_pipeline.document_chunk_buffer as b"
    " where b.document_id = %(id)s and b.ordinal = 1)"
)
WITHOUT_CHUNK = (
    f"delete from upload_pipeline.document_vectors {VECTOR}; delete from upload_pipeline.document_chunk_buffer {CHUNK}"
)
EDITED = f"update upload_pipeline.document_chunk_buffer set text = text || '!' {CHUNK}"
UNFIT = f"update upload_pipeline.document_vectors set embedding = embedding + embedding {VECTOR}"
OF_OTHER_TEXT = f"update upload_pipeline.document_vectors set chunk_sha256 = sha256('other') {VECTOR}"
WITHOUT_VECTOR = f"delete from upload_pipeline.document_vectors {VECTOR}"
LOST_CHUNK = {"chunks_miscounted", "chunks_differ_from_text"}
# The state, what is done to the buffers, what is found, where the document is taken, and by which way.
DAMAGE = {
    "cut": ("chunks_stored", WITHOUT_CHUNK, LOST_CHUNK, "parse_validated", ["failed_embedding", "parse_validated"]),
    "edited": ("embedding_in_progress", EDITED, {"chunks_altered"}, "parse_validated",
               ["failed_embedding", "parse_validated"]),
    "embedded": ("embeddings_stored", WITHOUT_CHUNK, LOST_CHUNK, "parse_validated",
                 ["failed_embedding", "parse_validated"]),
    "edited and wrongly embedded": (
        "embeddings_stored",
        f"{EDITED}; update upload_pipeline.document_vectors as v set embedding = v.embedding + v.embedding"
        " from upload_pipeline.document_chunk_buffer as b"
        " where b.document_id = %(id)s and b.ordinal = 2 and v.chunk_id = b.chunk_id",
        {"chunks_altered", "vectors_unfit"},
        "parse_validated",
        ["failed_embedding", "parse_validated"],
    ),
    "given up": ("failed_embedding", WITHOUT_CHUNK, {*LOST_CHUNK, "partition_untold"}, "parse_validated",
                 ["parse_validated"]),
    "half embedded": ("embedding_in_progress", UNFIT, {"vectors_unfit"}, "embedding_in_progress", []),
    "wrongly embedded": ("embeddings_stored", UNFIT, {"vectors_unfit"}, "chunks_stored",
                         ["failed_embedding", "chunks_stored"]),
    "with a vector of another text": ("embeddings_stored", OF_OTHER_TEXT, {"vectors_missing"}, "chunks_stored",
                                      ["failed_embedding", "chunks_stored"]),
    "not all embedded": ("embeddings_stored", WITHOUT_VECTOR, {"vectors_missing"}, "chunks_stored",
                         ["failed_embedding", "chunks_stored"]),
}  # fmt: skip
WITHOUT_TEXT = {
    "parsed": ("parse_validated", ["failed_chunking", "uploaded"]),
    "cut too": ("chunks_stored", ["failed_embedding", "uploaded"]),
    "not cut": ("failed_chunking", ["uploaded"]),
}


def test_damage_on_the_way_is_found_and_the_document_taken_back_as_far_as_needed(audited: AuditedPipeline) -> None:
    documents = audited.completed(*DAMAGE, "untouched")
    for document_id, (state, statement, _, _, _) in zip(documents, DAMAGE.values(), strict=False):
        audited.put_into(document_id, state)
        audited.damage(statement, document_id)
    expected = {name: codes for name, (_, _, codes, _, _) in DAMAGE.items()}
    found = audited.found()
    assert {name: found.pop(str(each), set()) for name, each in zip(DAMAGE, documents, strict=False)} == expected
    assert found == {}

    assert audited.run(is_fixing=True).left() == 0
    for document_id, (_, _, _, state, way) in zip(documents, DAMAGE.values(), strict=False):
        job = audited.pipeline.job(document_id)
        assert (job["state"], job["attempt"], job["last_error_code"], job["claimed_by"]) == (state, 0, None, None)
        assert audited.history(document_id) == way
    audited.pipeline.process()
    assert {audited.pipeline.document(each).state for each in documents} == {State.COMPLETE}
    assert audited.found() == {}


def test_a_document_on_the_way_whose_text_is_gone_is_parsed_anew(audited: AuditedPipeline, tmp_path: Path) -> None:
    documents = audited.completed(*WITHOUT_TEXT)
    for document_id, (state, _) in zip(documents, WITHOUT_TEXT.values(), strict=True):
        audited.put_into(document_id, state)
        (tmp_path / "objects" / (audited.pipeline.document(document_id).parsed_key or "")).unlink()
    assert audited.fixed()["text_missing"] == (3, 3)
    for document_id, (_, way) in zip(documents, WITHOUT_TEXT.values(), strict=True):
        assert audited.history(document_id) == way
    audited.pipeline.complete()
    assert {audited.pipeline.document(each).state for each in documents} == {State.COMPLETE}
    assert audited.found() == {}


def test_rows_of_another_owner_are_not_served_whatever_state_the_document_is_in(audited: AuditedPipeline) -> None:
    rebuilt, buffered = audited.completed("rebuilt", "buffered")
    rows = audited.served(rebuilt)
    audited.damage(
        "update upload_pipeline.upload_jobs set state = 'parse_validated' where document_id = %(id)s", rebuilt
    )
    audited.damage(
        "update upload_pipeline.document_chunks set owner_id = gen_random_uuid() where document_id = %(id)s", rebuilt
    )
    audited.put_into(buffered, "chunks_stored")
    audited.damage(
        "update upload_pipeline.document_chunk_buffer set owner_id = gen_random_uuid() where document_id = %(id)s",
        buffered,
    )
    assert audited.found() == {str(each): {"owner_differs"} for each in (rebuilt, buffered)}
    assert audited.fixed() == {"owner_differs": (2, 2)}
    assert audited.served(rebuilt) == []
    audited.pipeline.process()
    assert [row["owner_id"] for row in audited.served(rebuilt)] == [row["owner_id"] for row in rows]
    assert audited.found() == {}


def test_what_is_paid_for_is_kept_in_the_buffer_of_a_document_that_may_use_it(audited: AuditedPipeline) -> None:
    [document_id] = audited.completed("victim")
    audited.put_into(document_id, "embeddings_stored")
    for state, stage in (("failed_parse", "parsed"), ("failed_chunking", "chunks"), ("uploaded", None)):
        audited.damage(
            f"update upload_pipeline.upload_jobs set state = '{state}', last_error_code = 'x', last_error_stage = "
            + (f"'{stage}'" if stage else "null")
        )
        assert "buffer_left" not in audited.found().get(str(document_id), set())


def test_the_history_says_what_was_damaged(audited: AuditedPipeline) -> None:
    [document_id] = audited.completed("victim")
    audited.put_into(document_id, "chunks_stored")
    audited.damage(EDITED, document_id)
    audited.fixed()
    [event] = audited.pipeline.rows(
        "select actor, error_code, message from upload_pipeline.events where to_state = 'failed_embedding'"
    )
    assert event == {
        "actor": "audit",
        "error_code": "integrity_mismatch",
        "message": "the audit found chunks_altered",
    }


def test_what_a_cancelled_document_may_go_on_with_is_kept(audited: AuditedPipeline) -> None:
    [document_id] = audited.completed("victim")
    audited.put_into(document_id, "embeddings_stored")
    audited.damage(
        "update upload_pipeline.upload_jobs set state = 'cancelled', cancelled_from = 'embeddings_stored'", document_id
    )
    assert audited.found() == {}


def test_a_document_that_a_run_has_is_left_alone_and_said_so(audited: AuditedPipeline) -> None:
    [document_id] = audited.completed("victim")
    audited.damage(
        "update upload_pipeline.upload_jobs set claimed_by = 'run', claim_expires_at = now() + interval '1 minute'"
    )
    audited.damage(f"update upload_pipeline.document_chunks set text = 'x' {CHUNK}", document_id)
    before = audited.everything()
    tally = audited.run(is_fixing=True)
    assert (tally.found.total(), tally.at_work) == (0, 1)
    assert audited.everything() == before


def test_a_document_that_is_taken_right_before_it_is_mended_is_not_touched(audited: AuditedPipeline) -> None:
    [document_id] = audited.completed("victim")
    audited.damage(f"update upload_pipeline.document_chunks set text = 'x' {CHUNK}", document_id)
    inventory = audited.inventory

    class TakenInventory(Around):
        def mend(self, *arguments: object) -> bool:
            assert audited.pipeline.services.documents.claim_documents([document_id], "run") == [document_id]
            return bool(inventory.mend(*arguments))  # type: ignore[arg-type]

    audited.inventory = TakenInventory(inventory)  # type: ignore[assignment]
    tally = audited.run(is_fixing=True)
    assert (tally.found.total(), tally.mended.total()) == (2, 0)
    assert audited.pipeline.document(document_id).state is State.COMPLETE


def test_what_is_right_when_it_is_looked_at_again_is_no_finding(audited: AuditedPipeline) -> None:
    audited.completed("victim", "bystander")
    looks: list[str] = []

    class FlickeringObjects(Around):
        def get(self, key: str) -> bytes:
            looks.append(key)
            if looks.count(key) == 1:
                raise ObjectMissingError("not at this moment")
            return bytes(self._real.get(key))

    assert audited.run(objects=FlickeringObjects(audited.pipeline.services.objects)).found.total() == 0
    assert len(looks) == 4


@pytest.mark.parametrize("count", [1, 2])
def test_objects_that_can_not_be_read_are_a_finding_and_a_store_that_is_away_is_an_error(
    audited: AuditedPipeline, count: int
) -> None:
    unreadable, _ = audited.completed("victim", "bystander")
    keys = [audited.pipeline.document(unreadable).object_key, ""][:count]

    class BrokenObjects(Around):
        def get(self, key: str) -> bytes:
            return bytes(self._read(key, self._real.get))

        def stream(self, key: str) -> object:
            return self._read(key, self._real.stream)

        def _read(self, key: str, read: object) -> object:
            if any(key.startswith(broken) for broken in keys) and not key.startswith("checks"):
                raise StoreUnavailableError("the disk is broken")
            return read(key)  # type: ignore[operator]

    objects = BrokenObjects(audited.pipeline.services.objects)
    if count == 1:
        tally = audited.run(objects=objects, is_fixing=True)
        assert tally.seen == {str(unreadable): {"object_unreadable": False}}
    else:
        with pytest.raises(StoreUnavailableError, match="the disk is broken"):
            audited.run(objects=objects)


def test_audits_beside_a_pipeline_at_work_raise_no_alarm(audited: AuditedPipeline) -> None:
    pipeline = audited.pipeline
    documents: list[UUID] = []
    done = threading.Event()

    def work() -> None:
        try:
            for number in range(4):
                documents.extend(pipeline.upload(document_text(f"{number}-{each}", 60)) for each in range(5))
                pipeline.complete()
        finally:
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    audits = 0
    while not done.is_set() or not audits:
        tally = audited.run(is_fixing=True, with_dagster=False)  # Dagster's instance in memory is for one thread
        assert tally.seen == {}
        audits += 1
    thread.join()
    assert {pipeline.document(each).state for each in documents} == {State.COMPLETE}
    assert len(documents) == 20
    assert audited.found() == {}
