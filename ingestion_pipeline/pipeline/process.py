"""parsed → chunks → embeddings → finalized, for all documents of a run at once.

Each document has its own fate: an error settles that document alone. Embedding requests are filled across documents.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from ingestion_pipeline.domain import DEAD_LETTERS, Document, Failure, State
from ingestion_pipeline.pipeline.embedding import embed_documents
from ingestion_pipeline.pipeline.failures import settle
from ingestion_pipeline.pipeline.preparing import store_chunks, store_parsed
from ingestion_pipeline.pipeline.promoting import promote
from ingestion_pipeline.pipeline.report import Asset, Metadata, StageReport, Verdict
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.pipeline.submit import upload_check, upload_facts

STAGE_ORDER = tuple(Asset)
# Which assets of a document are durable in a state.
DURABLE: dict[State, tuple[Asset, ...]] = {
    State.PARSE_QUEUED: STAGE_ORDER[:1],
    State.PARSED: STAGE_ORDER[:1],
    State.PARSE_VALIDATED: STAGE_ORDER[:2],
    State.CHUNKS_STORED: STAGE_ORDER[:3],
    State.EMBEDDING_IN_PROGRESS: STAGE_ORDER[:3],
    State.EMBEDDINGS_STORED: STAGE_ORDER[:4],
    State.COMPLETE: STAGE_ORDER,
    State.FAILED_CHUNKING: STAGE_ORDER[:2],
    State.FAILED_EMBEDDING: STAGE_ORDER[:3],
}
Work = Callable[[Document, str, Services], StageReport]


def process_documents(documents: Sequence[Document], claim: str, services: Services) -> Iterator[StageReport]:
    """Take each document as far as it goes; a document's reports come in the order of its flow."""
    for document in documents:
        yield from _durable(document)
    yield from _each(Asset.PARSED, store_parsed, {State.PARSE_QUEUED, State.PARSED}, documents, claim, services)
    yield from _each(Asset.CHUNKS, store_chunks, {State.PARSE_VALIDATED}, _again(documents, services), claim, services)
    ready = [
        document
        for document in _again(documents, services)
        if document.state in (State.CHUNKS_STORED, State.EMBEDDING_IN_PROGRESS)
    ]
    yield from embed_documents(ready, claim, services)
    yield from _each(Asset.FINALIZED, promote, {State.EMBEDDINGS_STORED}, _again(documents, services), claim, services)


def next_asset(state: State) -> Asset:
    """The asset that a document in this state is on its way to."""
    return STAGE_ORDER[len(DURABLE.get(state, ()))]


def _again(documents: Sequence[Document], services: Services) -> list[Document]:
    """The same documents as they are now: a stage works on what the database says, not on what it said before."""
    return services.documents.load([document.document_id for document in documents])


def _each(
    asset: Asset, work: Work, states: set[State], documents: Sequence[Document], claim: str, services: Services
) -> Iterator[StageReport]:
    def attempt(document: Document) -> StageReport:
        try:
            return work(document, claim, services)
        except Exception as error:  # noqa: BLE001 - classifies the errors of these stages; a bug becomes a dead letter
            return settle(services, document, claim, asset, error)

    with ThreadPoolExecutor(services.limits.concurrency, thread_name_prefix=asset.value) as pool:
        futures = [pool.submit(attempt, document) for document in documents if document.state in states]
        for future in as_completed(futures):
            yield future.result()


def _durable(document: Document) -> Iterator[StageReport]:
    """What earlier runs achieved, told again with what the row knows: they may have died before they could say so."""
    known: Metadata = upload_facts(document)
    if document.page_count is not None:
        known |= {"pages": document.page_count}
    if document.chunk_count is not None:
        known |= {"chunks": document.chunk_count}
    for asset in DURABLE.get(document.state, ()):
        checks = (upload_check(document),) if asset is Asset.RAW_UPLOAD else ()
        yield StageReport(document.document_id, asset, Verdict.DONE, known, checks)
    if document.state in DEAD_LETTERS:
        failure = Failure(
            code=document.last_error_code or "internal_error",
            message=document.last_error_message or "",
            stage=document.last_error_stage or Asset.RAW_UPLOAD,
            transient=False,
        )
        named: Metadata = {"filename": document.filename}
        yield StageReport(document.document_id, Asset(failure.stage), Verdict.FAILED, named, failure=failure)
