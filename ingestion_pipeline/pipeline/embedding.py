"""The embeddings asset of many documents: requests are filled across documents, and each answer is stored at once.

A text that was paid for before (same owner, model and content) is copied inside the database; a text that occurs twice
in a run is sent once. Only what has no vector yet is sent, so a run that died costs at most the requests in flight.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from uuid import UUID

from ingestion_pipeline.domain import Document, State
from ingestion_pipeline.errors import RequestRejectedError
from ingestion_pipeline.pipeline.failures import require_passed, settle
from ingestion_pipeline.pipeline.report import Asset, Metadata, StageReport, Verdict
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.ports import PendingText
from ingestion_pipeline.stages.embed import check_vectors_complete, plan_batches, validate_vectors
from ingestion_pipeline.stages.usage import embedding_call, embedding_cost_usd

CONCURRENT_REQUESTS = 4


@dataclass(slots=True)
class _Spending:
    """What the requests of a run did for each document."""

    vectors: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    tokens: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    errors: dict[UUID, Exception] = field(default_factory=dict)


def embed_documents(documents: Sequence[Document], claim: str, services: Services) -> Iterator[StageReport]:
    """Bring documents in chunks_stored or embedding_in_progress to embeddings_stored; one report each."""
    started = time.monotonic()
    begun: list[Document] = []
    for document in documents:
        try:
            if document.state is State.CHUNKS_STORED:
                services.documents.embedding_started(document, claim)
            begun.append(replace(document, state=State.EMBEDDING_IN_PROGRESS))
        except Exception as error:  # noqa: BLE001 - as in process.py
            yield settle(services, document, claim, Asset.EMBEDDINGS, error)
    if not begun:
        return
    document_ids = [document.document_id for document in begun]
    reused = services.documents.reuse_vectors(document_ids, services.embedder.model)
    spending = _embed_missing(services.documents.missing_vectors(document_ids), claim, services)
    for document in begun:
        try:
            if document.document_id in spending.errors:
                raise spending.errors[document.document_id]
            yield _conclude(document, claim, services, spending, reused.get(document.document_id, 0), started)
        except Exception as error:  # noqa: BLE001 - as in process.py
            yield settle(services, document, claim, Asset.EMBEDDINGS, error)


def _embed_missing(missing: Sequence[PendingText], claim: str, services: Services) -> _Spending:
    same_content: dict[bytes, list[PendingText]] = defaultdict(list)
    for text in missing:
        same_content[text.chunk_sha256].append(text)
    spending = _Spending()

    def request(batch: Sequence[PendingText]) -> None:
        documents = {text.document_id for text in batch}
        try:
            _request(batch, same_content, claim, services, spending)
        except RequestRejectedError as error:
            if len(documents) == 1:
                spending.errors.update(dict.fromkeys(documents, error))
                batch = _for_others(batch, same_content, spending)
            for document_id in {text.document_id for text in batch}:  # one document's text must not fail the others
                request([text for text in batch if text.document_id == document_id])
        except Exception as error:  # noqa: BLE001 - settled for each document by the caller
            spending.errors.update(dict.fromkeys(_holders(batch, same_content), error))

    with ThreadPoolExecutor(CONCURRENT_REQUESTS, thread_name_prefix="embed") as pool:
        for future in as_completed([pool.submit(request, batch) for batch in plan_batches(missing)]):
            future.result()
    return spending


def _request(
    batch: Sequence[PendingText],
    same_content: dict[bytes, list[PendingText]],
    claim: str,
    services: Services,
    spending: _Spending,
) -> None:
    """One request to the vendor and one write of its answer."""
    embeddings = services.embedder.embed([text.text for text in batch])
    validate_vectors(embeddings.vectors, len(batch), services.embedder.dimensions)
    bill = embedding_call(services.embedder.model, embeddings.tokens, embeddings.seconds, batch)
    rows = [(index, text) for index, first in enumerate(batch) for text in same_content[first.chunk_sha256]]
    services.documents.store_vectors(
        claim,
        [text for _, text in rows],
        embeddings.vectors[[index for index, _ in rows]],
        services.embedder.model,
        bill,
    )
    for text in batch:
        spending.vectors[text.document_id] += 1
    for share in bill.shares:
        if share.document_id is not None:
            spending.tokens[share.document_id] += share.tokens


def _holders(batch: Sequence[PendingText], same_content: dict[bytes, list[PendingText]]) -> set[UUID]:
    return {text.document_id for first in batch for text in same_content[first.chunk_sha256]}


def _for_others(
    batch: Sequence[PendingText], same_content: dict[bytes, list[PendingText]], spending: _Spending
) -> list[PendingText]:
    """Of the texts of a refused request those that documents without an error have too, each once."""
    innocent = (
        [text for text in same_content[refused.chunk_sha256] if text.document_id not in spending.errors]
        for refused in batch
    )
    return [texts[0] for texts in innocent if texts]


def _conclude(
    document: Document, claim: str, services: Services, spending: _Spending, reused: int, started: float
) -> StageReport:
    facts = services.documents.vector_facts(document.document_id)
    check = check_vectors_complete(facts, services.embedder.dimensions)
    require_passed([check])
    services.documents.embeddings_stored(document, claim)
    tokens = spending.tokens[document.document_id]
    metadata: Metadata = {
        "filename": document.filename,
        "vectors": facts.vectors,
        "vectors_requested": spending.vectors[document.document_id],
        "vectors_reused": reused,
        "model": services.embedder.model,
        "dimensions": services.embedder.dimensions,
        "tokens": tokens,
        "cost_usd": float(embedding_cost_usd(services.embedder.model, tokens)),
        "seconds": round(time.monotonic() - started, 3),
    }
    return StageReport(document.document_id, Asset.EMBEDDINGS, Verdict.DONE, metadata, (check,))
