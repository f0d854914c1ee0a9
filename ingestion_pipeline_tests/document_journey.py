"""Brings an uploaded document through the states, as the workers do: with their store, role and transactions."""

from collections.abc import Sequence
from uuid import UUID, uuid4

from running_api import WordEmbedder

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import (
    Chunk,
    Document,
    Failure,
    ParsedText,
    ParseOutcome,
    chunk_id_for,
    sha256_of,
)
from ingestion_pipeline.ports import ChunkResult, ParseResult


class Journey:
    """One document on its way; each step is one transaction of the workers' store."""

    def __init__(self, worker_url: str, document_id: UUID) -> None:
        self._database = Database(worker_url, application_name="ingest-worker-test")
        self._store = PostgresDocumentStore(self._database, actor="worker", claim_seconds=60)
        self._document_id = document_id
        self._claim = str(uuid4())

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def submit(self, parse_job_id: str) -> None:
        """uploaded → parse_queued."""
        self._store.parse_submitted(self._claimed(), self._claim, parse_job_id, 60)

    def end_parsing(self, parse_job_id: str) -> None:
        """parse_queued → parsed."""
        assert self._store.parse_ended(parse_job_id, ParseOutcome.SUCCESS)

    def store_text(self, text: str) -> None:
        """parsed → parse_validated; one page that could be read and one that could not."""
        parsed = ParsedText(text, (1,), (0,), (2,))
        self._store.parsed(self._claim, [ParseResult(self._claimed(), "parsed/key", sha256_of(text), parsed)])

    def store_chunks(self, texts: Sequence[str]) -> None:
        """parse_validated → chunks_stored."""
        chunks, start = [], 0
        for ordinal, text in enumerate(texts):
            chunks.append(
                Chunk(
                    chunk_id=chunk_id_for(self._document_id, ordinal),
                    ordinal=ordinal,
                    text=text,
                    sha256=sha256_of(text),
                    start=start,
                    end=start + len(text),
                    first_page=1,
                    last_page=2,
                    heading_path=("Manual", "Pumps"),
                    token_count=len(text.split()),
                )
            )
            start += len(text)
        self._store.chunks_stored(self._claim, [ChunkResult(self._claimed(), chunks)])

    def start_embedding(self) -> None:
        """chunks_stored → embedding_in_progress."""
        self._store.embedding_started(self._claim, [self._claimed().document_id])

    def embed(self, most: int) -> None:
        """Give vectors to at most so many chunks that have none."""
        pending = self._store.missing_vectors([self._document_id], WordEmbedder.model)[:most]
        vectors = WordEmbedder().embed([text.text for text in pending]).vectors
        self._store.store_vectors(self._claim, pending, vectors, WordEmbedder.model)

    def finish(self) -> None:
        """embedding_in_progress → embeddings_stored → complete."""
        self._store.embeddings_stored(self._claim, [self._claimed().document_id])
        self._store.promote(self._claim, [self._claimed().document_id], WordEmbedder.model, lambda *_: None)

    def complete(self, texts: Sequence[str], parse_job_id: str = "pjb-1") -> None:
        """The whole way."""
        self.submit(parse_job_id)
        self.end_parsing(parse_job_id)
        self.store_text("".join(texts))
        self.store_chunks(texts)
        self.start_embedding()
        self.embed(len(texts))
        self.finish()

    def retry_later(self, failure: Failure) -> None:
        """The present work failed and is due again in an hour."""
        self._store.retry_later(self._claimed(), self._claim, failure, 3600)

    def give_up(self, failure: Failure) -> None:
        """Into the dead letter."""
        self._store.dead_letter(self._claimed(), self._claim, failure)

    def _claimed(self) -> Document:
        self._store.claim_documents([self._document_id], self._claim)
        [document] = self._store.load([self._document_id])
        return document
