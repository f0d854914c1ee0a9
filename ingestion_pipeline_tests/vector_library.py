"""Many complete documents with vectors, written straight into the tables that search serves."""

from contextlib import closing
from uuid import UUID, uuid4

import numpy as np
import psycopg2
import psycopg2.extras
from numpy.typing import NDArray

from ingestion_pipeline.adapters.postgres.binary_copy import vector_rows
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.domain import Precision, sha256_of
from ingestion_pipeline.ports import PendingText

DIMENSIONS = 1536
TOPICS, LATENT_DIMENSIONS = 200, 96
FILL = (
    "insert into upload_pipeline.documents "
    "(document_id, owner_id, filename, content_type, size_bytes, sha256, object_key) "
    "select distinct document_id, owner_id, 'library.md', 'text/markdown', 1, sha256(uuid_send(document_id)), 'raw/x' "
    "from pg_temp.staged_vectors",
    "insert into upload_pipeline.document_chunks (chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, "
    "first_page, last_page, heading_path, token_count, chunk_sha256, text) "
    "select chunk_id, document_id, owner_id, row_number() over (partition by document_id) - 1, 0, 1, 1, 1, '{}', 1, "
    "chunk_sha256, repeat('The pump of the cold store leaks where the seal is worn. ', 40) "
    "from pg_temp.staged_vectors",
    "insert into upload_pipeline.document_vectors (chunk_id, model, document_id, owner_id, chunk_sha256, embedding) "
    "select chunk_id, model, document_id, owner_id, chunk_sha256, embedding from pg_temp.staged_vectors",
)


def topical_vectors(count: int, seed: int = 1) -> NDArray[np.float32]:
    """Unit vectors that lie about topics, as those of texts do; shape (count, DIMENSIONS)."""
    fixed, drawn = np.random.default_rng(0), np.random.default_rng(seed)
    basis = fixed.normal(size=(LATENT_DIMENSIONS, DIMENSIONS))
    topics = fixed.normal(size=(TOPICS, LATENT_DIMENSIONS))
    latent = topics[drawn.integers(0, TOPICS, count)] + 0.8 * drawn.normal(size=(count, LATENT_DIMENSIONS))
    vectors = latent @ basis + 3.0 * drawn.normal(size=(count, DIMENSIONS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def add_vectors(
    url: str,
    owner_id: UUID,
    vectors: NDArray[np.float32],
    *,
    model: str = "text-embedding-3-small",
    precision: Precision = Precision.HALF,
    chunks_a_document: int = 20,
) -> list[UUID]:
    """Serve one chunk a vector, as if its owner had uploaded documents of so many chunks; `url` is the schema owner's.

    Returns the chunks' ids in the order of the vectors.
    """
    texts: list[PendingText] = []
    for number in range(len(vectors)):
        document_id = texts[-1].document_id if number % chunks_a_document else uuid4()
        chunk_id = uuid4()
        texts.append(PendingText(chunk_id, document_id, owner_id, sha256_of(str(chunk_id)), "", 1))
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        queries().create_staged_vectors(connection)
        cursor.copy_expert(queries().copy_staged_vectors.sql, vector_rows(texts, vectors, model, precision))
        for statement in FILL:
            cursor.execute(statement)
    return [text.chunk_id for text in texts]


def analyse(url: str) -> None:
    """What autovacuum would do after a while."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("vacuum analyze")
