"""A stand-in for the workers: takes uploads through all states on the real tables, without Dagster and vendors."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import numpy as np
import psycopg2

from ingestion_pipeline.domain import HAPPY_PATH, State, chunk_id_for, sha256_of
from ingestion_pipeline.ports import Embedder, Embeddings
from mock_services.llamacloud.parsing import parse_document
from mock_services.openai.vectors import MeaningfulVectors

LOOK_SECONDS = 0.02


class MeaningfulEmbedder:
    """ports.Embedder by the word weights of the mock OpenAI, in this process."""

    model = "text-embedding-3-small"
    dimensions = 1536

    def __init__(self) -> None:
        self._source = MeaningfulVectors()

    def embed(self, texts: Sequence[str]) -> Embeddings:
        vectors = self._source.vectors(list(texts), self.model, self.dimensions)
        return Embeddings(np.array(vectors), tokens=sum(len(text.split()) for text in texts))


class StandInWorkers:
    """Completes every upload, with one chunk a paragraph. Takes the owner's URL and the folder of objects."""

    def __init__(self, database_url: str, objects: Path, embedder: Embedder) -> None:
        self._database_url = database_url
        self._objects = objects
        self._embedder = embedder
        self._stop = threading.Event()
        self._error: Exception | None = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work in a thread until the end of the block, which raises what went wrong in it."""
        thread = threading.Thread(target=self._work, name="stand-in-workers")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            if self._error is not None:
                raise self._error

    def _work(self) -> None:
        try:
            with closing(psycopg2.connect(self._database_url)) as connection:
                while not self._stop.wait(LOOK_SECONDS):
                    with connection, connection.cursor() as cursor:
                        cursor.execute(
                            "select document_id, owner_id, filename, object_key from upload_pipeline.documents"
                            " join upload_pipeline.upload_jobs using (document_id, owner_id) where state = 'uploaded'"
                        )
                        for document_id, owner_id, filename, object_key in cursor.fetchall():
                            self._complete(cursor, document_id, owner_id, self._objects / object_key, filename)
        except Exception as error:  # noqa: BLE001  raised again in the thread that waits
            self._error = error

    def _complete(
        self, cursor: psycopg2.extensions.cursor, document_id: UUID, owner_id: UUID, file: Path, filename: str
    ) -> None:
        pages = parse_document(file.read_bytes(), filename)
        texts = [text for page in pages for text in page.markdown.split("\n\n") if text.strip()]
        vectors = self._embedder.embed(texts).vectors
        model = self._embedder.model
        for ordinal, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
            chunk_id, sha256 = chunk_id_for(document_id, ordinal), sha256_of(text)
            cursor.execute(
                "insert into upload_pipeline.document_chunks values (%s, %s, %s, %s, 0, 1, 1, 1, '{}', 1, %s, %s)",
                (chunk_id, document_id, owner_id, ordinal, sha256, text),
            )
            cursor.execute(
                "insert into upload_pipeline.document_vectors values (%s, %s, %s, %s, %s, %s)",
                (chunk_id, model, document_id, owner_id, sha256, str(vector.tolist())),
            )
        cursor.execute(
            "update upload_pipeline.documents set page_count = %s, chunk_count = %s, token_count = %s,"
            " content_sha256 = sha256, embedding_model = %s, completed_at = now() where document_id = %s",
            (len(pages), len(texts), len(texts), model, document_id),
        )
        for _, state in pairwise(HAPPY_PATH):
            set_state(cursor, document_id, state)


def set_state(cursor: psycopg2.extensions.cursor, document_id: UUID, state: State) -> None:
    """The next state of a document, with what the schema asks for in it."""
    outcome = None if state is State.PARSE_QUEUED else "success"
    cursor.execute(
        "update upload_pipeline.upload_jobs set state = %s, parse_job_id = 'pjb', parse_poll_at = now(),"
        " parse_outcome = %s where document_id = %s",
        (state.value, outcome, document_id),
    )


def fail_parse(database_url: str, document_id: str, code: str, message: str) -> None:
    """Make an uploaded document a dead letter of parsing."""
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "update upload_pipeline.upload_jobs set state = 'failed_parse', last_error_code = %s,"
            " last_error_message = %s, last_error_stage = 'raw_upload' where document_id = %s",
            (code, message, document_id),
        )
