"""What is sent to the embedder: full requests, each text once, and one document's fault is no other's."""

from collections.abc import Callable, Sequence
from uuid import UUID

import pytest

from ingestion_pipeline.domain import ParsedText, State, document_id_for, sha256_of
from ingestion_pipeline.pipeline import embedding
from ingestion_pipeline.pipeline.report import Asset
from ingestion_pipeline.ports import PendingText
from ingestion_pipeline.stages.chunk import chunk
from orchestration.faulty_ports import Around
from orchestration.pipeline_under_test import OWNER, PipelineUnderTest, document_text, failure_of, only


def texts_of(text: str) -> list[str]:
    """The chunks that a Markdown text is cut into."""
    return [piece.text for piece in chunk(document_id_for(OWNER, sha256_of(text)), ParsedText(text, (1,), (0,)))]


def first_of_both(make: Callable[[str], str], other: str) -> str:
    """A text whose document is embedded before `other`'s: texts are sent in the order of the documents' ids."""
    later = document_id_for(OWNER, sha256_of(other))
    candidates = (make("!" * number) for number in range(1, 100))
    return next(text for text in candidates if document_id_for(OWNER, sha256_of(text)) < later)


def test_one_request_carries_the_texts_of_many_documents(pipeline: PipelineUnderTest) -> None:
    for number in range(8):
        pipeline.upload(document_text(f"manual {number}"))
    pipeline.complete()
    assert pipeline.texts_embedded() == 8
    assert pipeline.calls("openai", "create_embeddings") == 1


def test_a_text_that_stands_in_two_documents_of_a_batch_is_paid_for_once(pipeline: PipelineUnderTest) -> None:
    text = document_text("twin")
    twins = [pipeline.upload(text), pipeline.upload(text + "\n")]
    pipeline.complete()
    assert {pipeline.document(document_id).state for document_id in twins} == {State.COMPLETE}
    assert pipeline.texts_embedded() == 1


def test_a_text_that_was_embedded_before_is_not_sent_again(pipeline: PipelineUnderTest) -> None:
    text = document_text("twin")
    pipeline.upload(text)
    pipeline.complete()
    later = pipeline.upload(text + "\n")
    pipeline.complete()
    assert pipeline.document(later).state is State.COMPLETE
    assert pipeline.texts_embedded() == 1
    told = pipeline.materialised(Asset.EMBEDDINGS, later)
    assert (told["vectors_reused"], told["vectors_requested"], told["tokens"]) == (1, 0, 0)


def test_of_a_document_of_many_pages_what_is_paid_for_is_looked_for_once(
    pipeline: PipelineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "PAGE_TEXTS", 2)
    looks: list[UUID] = []

    class Counted(Around):
        def reuse_vectors(self, claim: str, document_ids: Sequence[UUID], model: str) -> dict[UUID, int]:
            looks.extend(document_ids)
            found: dict[UUID, int] = self._real.reuse_vectors(claim, document_ids, model)
            return found

    document_id = pipeline.upload(document_text("book", paragraphs=200))
    pipeline.with_services(documents=Counted(pipeline.services.documents)).complete()
    document = pipeline.document(document_id)
    assert document.state is State.COMPLETE
    assert document.chunk_count is not None
    assert document.chunk_count == pipeline.texts_embedded() > 5
    assert looks == [document_id]


def test_what_was_cut_just_now_is_not_read_from_the_buffer_again(pipeline: PipelineUnderTest) -> None:
    read: list[UUID] = []

    class Counted(Around):
        def missing_vectors(self, document_ids: Sequence[UUID], model: str, most: int) -> list[PendingText]:
            read.extend(document_ids)
            found: list[PendingText] = self._real.missing_vectors(document_ids, model, most)
            return found

    text = document_text("twin", paragraphs=30)
    documents = Counted(pipeline.services.documents)
    pipeline.upload(text)
    pipeline.with_services(documents=documents).complete()
    assert read == []
    partly_paid = pipeline.upload(text + "\n\n" + document_text("news", paragraphs=30))
    pipeline.with_services(documents=documents).complete()
    assert read == [partly_paid]
    assert pipeline.document(partly_paid).state is State.COMPLETE


def test_a_text_that_is_refused_fails_its_document_and_no_other(pipeline: PipelineUnderTest) -> None:
    pipeline.mocks.script("openai", "status", match="refused", times=None, status=400)
    refused = pipeline.upload(document_text("refused"))
    others = [pipeline.upload(document_text(title)) for title in ("one", "two", "three")]
    run = pipeline.complete()[-1]
    assert set(failure_of(run)[1]) == {str(refused)}
    assert {pipeline.document(document_id).state for document_id in others} == {State.COMPLETE}
    assert pipeline.observed(Asset.EMBEDDINGS, refused)["code"] == "request_rejected"


def test_a_document_that_shares_a_text_with_a_refused_one_is_complete(pipeline: PipelineUnderTest) -> None:
    long_text = document_text("shared", paragraphs=120)
    shared = texts_of(long_text)[0]
    blamed = first_of_both(lambda mark: long_text + f"\n\n# The refused part\n\nThis is refused{mark}", shared)
    assert shared in texts_of(blamed)
    assert texts_of(shared) == [shared]
    pipeline.mocks.script("openai", "status", match="This is refused", times=None, status=400)
    refused, innocent = pipeline.upload(blamed), pipeline.upload(shared)
    pipeline.complete()
    assert pipeline.document(refused).last_error_code == "request_rejected"
    assert pipeline.document(innocent).state is State.COMPLETE, pipeline.document(innocent).last_error_message


def test_vectors_of_the_wrong_shape_are_not_stored_and_asked_for_again(pipeline: PipelineUnderTest) -> None:
    document_id = pipeline.upload(document_text("one"))
    pipeline.mocks.script("openai", "nan_vectors", times=1)
    pipeline.complete()
    assert pipeline.job(document_id)["last_error_code"] == "malformed_response"
    assert pipeline.rows("select 1 from upload_pipeline.document_vectors") == []
    pipeline.due_now()
    assert only(pipeline.process()).success
    assert pipeline.document(document_id).state is State.COMPLETE
