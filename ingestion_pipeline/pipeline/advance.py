"""What a run does with the documents it holds: those before the parser are submitted, those behind it are processed."""

import threading
from collections.abc import Iterator, Sequence

from ingestion_pipeline.domain import SETTLED, Document, State
from ingestion_pipeline.errors import PermanentError
from ingestion_pipeline.pipeline.failures import settle
from ingestion_pipeline.pipeline.process import next_asset, process_documents
from ingestion_pipeline.pipeline.report import StageReport
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.pipeline.submit import submit_documents


def advance_documents(
    documents: Sequence[Document], claim: str, services: Services, stopping: threading.Event | None = None
) -> Iterator[StageReport]:
    """Take each document as far as it goes; a document's reports come in the order of its flow.

    A document whose runs died as often as it may be tried is not touched again: it may be what kills them.
    """
    stopping = stopping or threading.Event()
    before: list[Document] = []
    behind: list[Document] = []
    for document in documents:
        if document.attempt >= services.limits.max_attempts and document.state not in SETTLED:
            error = PermanentError(f"the runs that had this document died {document.attempt} times", code="worker_lost")
            yield settle(services, document, claim, next_asset(document.state), error)
        elif document.state is State.UPLOADED:
            before.append(document)
        else:
            behind.append(document)
    yield from submit_documents(before, claim, services, stopping)
    yield from process_documents(behind, claim, services, stopping)
