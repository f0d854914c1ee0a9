"""Damage to what complete documents have: an audit finds it, mends it, and the pipeline builds the document anew."""

from pathlib import Path
from uuid import UUID

from ingestion_pipeline.domain import State
from ingestion_pipeline.pipeline.report import Asset
from orchestration.audited_pipeline import AuditedPipeline

OF_DOCUMENT = "where document_id = %(id)s"
OF_CHUNK = f"{OF_DOCUMENT} and ordinal = 1"
OF_VECTOR = (
    "where chunk_id = (select c.chunk_id from upload_pipeline.document_chunks as c"
    " where c.document_id = %(id)s and c.ordinal = 1)"
)
OTHER_VECTOR = "('[' || repeat('0,', 1535) || '1]')::halfvec"
BY_OTHER_MODEL = """
    insert into upload_pipeline.document_vectors (chunk_id, model, document_id, owner_id, chunk_sha256, embedding)
    select chunk_id, 'text-embedding-3-large', document_id, owner_id, {sha256}, embedding
    from upload_pipeline.document_vectors where document_id = %(id)s
"""
# What is done to a document, what is found of it, and whether its texts have to be paid for again.
DAMAGE = {
    "a chunk is gone": (
        f"delete from upload_pipeline.document_vectors {OF_VECTOR};"
        f" delete from upload_pipeline.document_chunks {OF_CHUNK}",
        {"chunks_miscounted", "chunks_differ_from_text", "served_altered"},
        True,
    ),
    "the text of a chunk was edited": (
        f"update upload_pipeline.document_chunks set text = text || '!' {OF_CHUNK}",
        {"chunks_altered", "served_altered"},
        False,
    ),
    "a chunk was replaced, hash and all": (
        f"update upload_pipeline.document_chunks set text = 'x', chunk_sha256 = sha256('x') {OF_CHUNK}",
        {"chunks_differ_from_text", "vectors_missing", "vectors_outdated", "served_altered"},
        True,
    ),
    "a chunk was moved": (
        f"update upload_pipeline.document_chunks set start_offset = 0 {OF_CHUNK}",
        {"chunks_differ_from_text"},
        False,
    ),
    "a vector is gone": (
        f"delete from upload_pipeline.document_vectors {OF_VECTOR}",
        {"vectors_missing", "served_altered"},
        True,
    ),
    "a vector was replaced by another of unit length": (
        f"update upload_pipeline.document_vectors set embedding = {OTHER_VECTOR} {OF_VECTOR}",
        {"served_altered"},
        True,
    ),
    "a vector is not of unit length": (
        f"update upload_pipeline.document_vectors set embedding = embedding + embedding {OF_VECTOR}",
        {"vectors_unfit", "served_altered"},
        True,
    ),
    "chunks and vectors are another owner's": (
        f"update upload_pipeline.document_chunks set owner_id = gen_random_uuid() {OF_CHUNK};"
        f" update upload_pipeline.document_vectors set owner_id = gen_random_uuid() {OF_VECTOR}",
        {"owner_differs"},
        True,
    ),
    "the count of chunks was changed": (
        f"update upload_pipeline.documents set chunk_count = chunk_count + 1 {OF_DOCUMENT}",
        {"chunks_miscounted"},
        False,
    ),
    "it was embedded by another model": (
        f"update upload_pipeline.document_vectors set model = 'text-embedding-3-large' {OF_DOCUMENT};"
        f" update upload_pipeline.documents set embedding_model = 'text-embedding-3-large' {OF_DOCUMENT}",
        {"model_changed"},
        True,
    ),
}


def test_damage_to_what_is_served_is_found_and_the_document_built_anew_from_its_text(audited: AuditedPipeline) -> None:
    *victims, bystander = audited.completed(*DAMAGE, "bystander")
    assert audited.found() == {}
    served = {document_id: audited.served(document_id) for document_id in (*victims, bystander)}
    parsed, embedded = parse_jobs(audited), audited.pipeline.texts_embedded()
    for document_id, (statement, _, _) in zip(victims, DAMAGE.values(), strict=True):
        audited.damage(statement, document_id)

    found = audited.found()
    expected = {name: codes for name, (_, codes, _) in DAMAGE.items()}
    assert {name: found.pop(str(victim), set()) for name, victim in zip(DAMAGE, victims, strict=True)} == expected
    assert found == {}
    tally = audited.run(is_fixing=True)
    assert tally.left() == 0
    assert tally.found.total() == sum(map(len, expected.values()))
    for document_id in victims:
        assert audited.pipeline.document(document_id).state is State.PARSE_VALIDATED
        assert audited.history(document_id) == ["parse_validated"]
    audited.pipeline.process()

    assert audited.found() == {}
    for document_id in victims:
        assert audited.pipeline.document(document_id).state is State.COMPLETE
        assert audited.served(document_id) == served[document_id]
    assert audited.served(bystander) == served[bystander]
    assert parse_jobs(audited) == parsed
    paid_again = [len(served[victim]) for victim, (_, _, paid) in zip(victims, DAMAGE.values(), strict=True) if paid]
    assert audited.pipeline.texts_embedded() - embedded == sum(paid_again)
    assert audited.pipeline.partitions(Asset.FINALIZED) == ({*victims, bystander}, set())


def parse_jobs(audited: AuditedPipeline) -> int:
    return audited.pipeline.calls("llamacloud", "create_parse_job")


def parsed_file(audited: AuditedPipeline, tmp_path: Path, document_id: UUID) -> Path:
    key = audited.pipeline.document(document_id).parsed_key
    assert key is not None
    return tmp_path / "objects" / key


def raw_file(audited: AuditedPipeline, tmp_path: Path, document_id: UUID) -> Path:
    return tmp_path / "objects" / audited.pipeline.document(document_id).object_key


def test_documents_whose_text_is_damaged_are_parsed_anew(audited: AuditedPipeline, tmp_path: Path) -> None:
    missing, altered, moved, _ = audited.completed("missing", "altered", "moved", "bystander")
    parsed = parse_jobs(audited)
    parsed_file(audited, tmp_path, missing).unlink()
    parsed_file(audited, tmp_path, altered).write_bytes(b"\xff\xfe no text")
    audited.damage(f"update upload_pipeline.documents set page_starts = array[7] {OF_DOCUMENT}", moved)
    codes = {missing: "text_missing", altered: "text_altered", moved: "text_altered"}
    assert audited.found() == {str(document_id): {code} for document_id, code in codes.items()}
    assert audited.fixed() == {"text_missing": (1, 1), "text_altered": (2, 2)}
    for document_id in codes:
        document = audited.pipeline.document(document_id)
        assert (document.state, document.parse_round, document.parse_job_id) == (State.UPLOADED, 2, None)

    audited.pipeline.complete()
    assert {audited.pipeline.document(document_id).state for document_id in codes} == {State.COMPLETE}
    assert parse_jobs(audited) == parsed + 3
    assert audited.found() == {}


def test_a_lost_file_is_reported_and_what_was_made_of_it_is_left_alone(
    audited: AuditedPipeline, tmp_path: Path
) -> None:
    missing, altered = audited.completed("missing", "altered")
    kept = raw_file(audited, tmp_path, missing).read_bytes()
    raw_file(audited, tmp_path, missing).unlink()
    raw_file(audited, tmp_path, altered).write_bytes(bytes(len(kept)))
    before = audited.everything()
    assert audited.fixed() == {"raw_missing": (1, 0), "raw_altered": (1, 0)}

    parsed_file(audited, tmp_path, missing).unlink()  # now it can't be parsed anew either
    assert audited.fixed()["text_missing"] == (1, 0)
    assert audited.fixed(codes=frozenset({"text_missing"}))["text_missing"] == (1, 0)
    assert audited.everything() == before

    raw_file(audited, tmp_path, missing).write_bytes(kept)
    assert audited.fixed() == {"raw_altered": (1, 0), "text_missing": (1, 1)}


def test_what_another_model_made_of_an_earlier_text_is_dropped_and_the_rest_of_it_kept(
    audited: AuditedPipeline,
) -> None:
    document_id, other = audited.completed("victim", "bystander")
    audited.damage(BY_OTHER_MODEL.format(sha256="sha256('earlier')"), document_id)
    audited.damage(BY_OTHER_MODEL.format(sha256="chunk_sha256"), other)
    assert audited.found() == {str(document_id): {"vectors_outdated"}}
    assert audited.fixed() == {"vectors_outdated": (1, 1)}
    assert audited.found() == {}
    assert audited.pipeline.rows(
        "select distinct document_id::text from upload_pipeline.document_vectors where model = 'text-embedding-3-large'"
    ) == [{"document_id": str(other)}]


def test_what_a_buffer_still_holds_of_a_complete_document_is_dropped(audited: AuditedPipeline) -> None:
    [document_id] = audited.completed("victim")
    served = audited.served(document_id)
    audited.damage(
        "insert into upload_pipeline.document_chunk_buffer select * from upload_pipeline.document_chunks", document_id
    )
    assert audited.fixed() == {"buffer_left": (1, 1)}
    assert audited.found() == {}
    assert audited.served(document_id) == served


def test_chunks_that_are_served_of_a_document_that_never_was_complete_are_dropped(audited: AuditedPipeline) -> None:
    [document_id] = audited.completed("victim")
    rows = audited.served(document_id)
    audited.damage(
        f"update upload_pipeline.documents set completed_at = null, content_sha256 = null {OF_DOCUMENT};"
        f" update upload_pipeline.upload_jobs set state = 'parse_validated' {OF_DOCUMENT}",
        document_id,
    )
    assert audited.fixed() == {"served_unfinished": (1, 1)}
    assert audited.served(document_id) == []
    audited.pipeline.process()
    assert audited.served(document_id) == rows
