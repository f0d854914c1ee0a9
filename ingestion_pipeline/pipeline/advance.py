"""What a run does with the documents it holds: those before the parser are submitted, those behind it are processed."""

from collections.abc import Iterator, Sequence

from ingestion_pipeline.domain import Document, State
from ingestion_pipeline.pipeline.process import process_documents
from ingestion_pipeline.pipeline.report import StageReport
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.pipeline.submit import submit_documents


def advance_documents(documents: Sequence[Document], claim: str, services: Services) -> Iterator[StageReport]:
    """Take each document as far as it goes; reports come as assets are done, in the order of the flow for each document."""
    yield from submit_documents([document for document in documents if document.state is State.UPLOADED], claim, services)
    yield from process_documents(
        [document for document in documents if document.state is not State.UPLOADED], claim, services
    )
