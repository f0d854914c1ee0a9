"""Checks of one document's rows against one another: pure functions of DocumentFacts."""

from collections.abc import Iterator

from ingestion_pipeline.audit.findings import Code, Finding
from ingestion_pipeline.domain import State, document_id_for
from ingestion_pipeline.inventory import ChunkFacts, DocumentFacts, Mend

# Where a document needs its chunks in the buffer. Elsewhere the buffer may hold what was paid for and will be used
# again, but not where the document is complete.
BUFFERED = frozenset(
    {State.CHUNKS_STORED, State.EMBEDDING_IN_PROGRESS, State.EMBEDDINGS_STORED, State.FAILED_EMBEDDING}
)


def check_rows(facts: DocumentFacts, model: str) -> Iterator[Finding]:
    """All findings of a document's rows; `model` is the one that search uses."""
    yield from _identity(facts)
    if facts.state is None:
        yield _found(facts, Code.JOB_MISSING, "no row in upload_jobs", Mend.ENQUEUE)
        return
    yield from _buffered(facts)
    yield from _served(facts, model)


def _identity(facts: DocumentFacts) -> Iterator[Finding]:
    expected = document_id_for(facts.owner_id, facts.sha256)
    if facts.document_id != expected:
        yield _found(facts, Code.ID_DIFFERS, f"owner and content give {expected}", None)
    if facts.has_foreign_job:
        yield _found(facts, Code.OWNER_DIFFERS, "the job is another owner's", Mend.ADOPT)
    if facts.state in BUFFERED and (foreign := facts.buffered.foreign_rows):
        yield _found(facts, Code.OWNER_DIFFERS, f"{foreign} chunks of the buffer are another owner's", Mend.REBUILD)
    if foreign := facts.served.foreign_rows:
        mend = Mend.REBUILD if facts.state is State.COMPLETE else Mend.DROP_SERVED
        yield _found(facts, Code.OWNER_DIFFERS, f"{foreign} chunks that search serves are another owner's", mend)


def _buffered(facts: DocumentFacts) -> Iterator[Finding]:
    buffered = facts.buffered
    if facts.state is State.COMPLETE and buffered.chunks:
        yield _found(facts, Code.BUFFER_LEFT, f"{buffered.chunks} chunks", Mend.CLEAR_BUFFER)
    if facts.state not in BUFFERED:
        return
    yield from _chunks(facts, buffered)
    if facts.state is State.EMBEDDINGS_STORED and buffered.vectors < buffered.chunks:
        detail = f"{buffered.vectors} vectors for {buffered.chunks} chunks"
        yield _found(facts, Code.VECTORS_MISSING, detail, Mend.REEMBED)
    if buffered.unfit:
        yield _found(facts, Code.VECTORS_UNFIT, f"{buffered.unfit} of the buffer", Mend.REEMBED)


def _served(facts: DocumentFacts, model: str) -> Iterator[Finding]:
    served = facts.served
    if facts.state is State.COMPLETE and facts.outdated_vectors:
        yield _found(facts, Code.VECTORS_OUTDATED, f"{facts.outdated_vectors} vectors", Mend.DROP_OUTDATED)
    if served.chunks and facts.content_sha256 is None:
        yield _found(facts, Code.SERVED_UNFINISHED, f"{served.chunks} chunks", Mend.DROP_SERVED)
    if facts.state is not State.COMPLETE:
        return
    yield from _chunks(facts, served)
    if served.vectors < served.chunks:
        detail = f"{served.vectors} vectors for {served.chunks} chunks"
        yield _found(facts, Code.VECTORS_MISSING, detail, Mend.REBUILD)
    if served.unfit:
        yield _found(facts, Code.VECTORS_UNFIT, f"{served.unfit} that search serves", Mend.REBUILD)
    if served.sha256 != facts.content_sha256:
        yield _found(facts, Code.SERVED_ALTERED, _fingerprints(facts), Mend.REBUILD)
    if facts.embedding_model != model:
        yield _found(facts, Code.MODEL_CHANGED, f"embedded by {facts.embedding_model}", Mend.REBUILD)


def _chunks(facts: DocumentFacts, rows: ChunkFacts) -> Iterator[Finding]:
    if rows.chunks != facts.chunk_count:
        detail = f"{rows.chunks} chunks, {facts.chunk_count} were cut"
        yield _found(facts, Code.CHUNKS_MISCOUNTED, detail, Mend.REBUILD)
    if rows.altered:
        yield _found(facts, Code.CHUNKS_ALTERED, f"{rows.altered} chunks", Mend.REBUILD)


def _fingerprints(facts: DocumentFacts) -> str:
    served = facts.served.sha256.hex()[:12] if facts.served.sha256 else "nothing"
    return f"{served}, promoted as {facts.content_sha256.hex()[:12] if facts.content_sha256 else 'nothing'}"


def _found(facts: DocumentFacts, code: Code, detail: str, mend: Mend | None) -> Finding:
    return Finding(code, str(facts.document_id), detail, mend)
