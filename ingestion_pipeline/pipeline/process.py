"""parsed → chunks → embeddings → finalized, for all documents of a run, group by group.

Each document has its own fate: an error settles that document alone.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from ingestion_pipeline.domain import DEAD_LETTERS, Document, Failure, State
from ingestion_pipeline.pipeline.embedding import embed
from ingestion_pipeline.pipeline.groups import Crew, Group, in_groups
from ingestion_pipeline.pipeline.preparing import store_chunks, store_parsed, stored_texts
from ingestion_pipeline.pipeline.promoting import promote
from ingestion_pipeline.pipeline.report import Asset, Metadata, StageReport, Verdict
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.pipeline.submit import upload_check, upload_facts

STAGE_ORDER = tuple(Asset)
STAGES = {
    State.PARSE_QUEUED,
    State.PARSED,
    State.PARSE_VALIDATED,
    State.CHUNKS_STORED,
    State.EMBEDDING_IN_PROGRESS,
    State.EMBEDDINGS_STORED,
}
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


def process_documents(
    documents: Sequence[Document], claim: str, services: Services, stopping: threading.Event
) -> Iterator[StageReport]:
    """Take each document as far as it goes; a document's reports come in the order of its flow."""
    known = (report for document in documents for report in _durable(document))
    unsettled = [document for document in documents if document.state in STAGES]
    helpers = ThreadPoolExecutor(services.limits.concurrency, thread_name_prefix="vendor")
    crew = Crew(claim, services, helpers, stopping)
    try:
        yield from in_groups(unsettled, lambda group: _process(group, crew), stopping, known)
    finally:
        if not stopping.is_set():  # who is told to stop does not wait for a slow vendor
            helpers.shutdown()


def _process(documents: Sequence[Document], crew: Crew) -> list[StageReport]:
    group = Group(crew)

    def those_in(*states: State) -> list[Document]:
        return [document for document in documents if document.state in states]

    texts = store_parsed(group, those_in(State.PARSE_QUEUED, State.PARSED))
    texts += stored_texts(group, those_in(State.PARSE_VALIDATED))
    cut, at_hand = store_chunks(group, texts)
    del texts  # of a large document the largest part of memory
    embedded = embed(group, [*cut, *those_in(State.CHUNKS_STORED, State.EMBEDDING_IN_PROGRESS)], at_hand)
    promote(group, [*embedded, *those_in(State.EMBEDDINGS_STORED)])
    return group.reports


def next_asset(state: State) -> Asset:
    """The asset that a document in this state is on its way to."""
    return STAGE_ORDER[len(DURABLE.get(state, ()))]


def _durable(document: Document) -> Iterator[StageReport]:
    """What earlier runs achieved, told again with what the row knows: they may have died before they could say so.

    A settled document has come to this run for nothing else, so all of it is told as if for the first time.
    """
    known = {**upload_facts(document)}
    is_repeated = document.state in STAGES
    if document.page_count is not None:
        known |= {"pages": document.page_count}
    if document.chunk_count is not None:
        known |= {"chunks": document.chunk_count}
    for asset in DURABLE.get(document.state, ()):
        checks = (upload_check(document),) if asset is Asset.RAW_UPLOAD else ()
        yield StageReport(document.document_id, asset, Verdict.DONE, known, checks, is_repeated=is_repeated)
    if document.state in DEAD_LETTERS:
        failure = Failure(
            code=document.last_error_code or "internal_error",
            message=document.last_error_message or "",
            stage=document.last_error_stage or Asset.RAW_UPLOAD,
            transient=False,
        )
        named: Metadata = {"filename": document.filename}
        yield StageReport(document.document_id, Asset(failure.stage), Verdict.FAILED, named, failure=failure)
