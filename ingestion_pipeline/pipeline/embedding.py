"""The embeddings asset of a group of documents: requests are filled across documents, each answer is stored at once.

A text that was paid for before (same owner, model and content) is copied inside the database; one that stands in
several documents of a run is sent once. Only what has no vector yet is sent, so a run that died costs at most the
requests in flight.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import structlog

from ingestion_pipeline.domain import CheckResult, Document, State, VendorCall
from ingestion_pipeline.errors import ClaimLostError, RequestRejectedError
from ingestion_pipeline.pipeline.failures import require_passed
from ingestion_pipeline.pipeline.groups import Group, Text
from ingestion_pipeline.pipeline.report import Asset, Metadata, StageReport, Verdict
from ingestion_pipeline.ports import ChunkResult, PendingText, VectorFacts
from ingestion_pipeline.stages.embed import check_vectors_complete, plan_batches, validate_vectors
from ingestion_pipeline.stages.usage import embedding_call, embedding_cost_usd

PAGE_TEXTS = 1024  # of a document of any size so many texts are in memory at once

AtHand = dict[UUID, list[PendingText]]  # of documents that were cut just now and have no vector yet


@dataclass(slots=True)
class _Spending:
    """What the requests of a group did for each document."""

    copied: set[UUID] = field(default_factory=set)  # the documents that have got vectors paid for before
    vectors: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    tokens: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    errors: dict[UUID, Exception] = field(default_factory=dict)
    correlation_ids: dict[UUID, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, batch: Sequence[PendingText], bill: VendorCall) -> None:
        """A request was answered."""
        with self._lock:
            for text in batch:
                self.vectors[text.document_id] += 1
            for share in bill.shares:
                if share.document_id is not None:
                    self.tokens[share.document_id] += share.tokens


def texts_at_hand(results: Sequence[ChunkResult]) -> AtHand:
    """The chunks of documents of a page or less, which need not be read from the buffer."""
    return {
        result.document.document_id: [
            PendingText(
                piece.chunk_id,
                result.document.document_id,
                result.document.owner_id,
                piece.sha256,
                piece.text,
                piece.token_count,
            )
            for piece in result.chunks
        ]
        for result in results
        if len(result.chunks) <= PAGE_TEXTS
    }


def embed(group: Group, documents: Sequence[Document], at_hand: AtHand) -> list[Document]:
    """Bring documents in chunks_stored or embedding_in_progress to embeddings_stored; returns those that are there."""
    started = time.monotonic()
    store, claim = group.services.documents, group.crew.claim
    begun = [document for document in documents if document.state is State.EMBEDDING_IN_PROGRESS]
    begun += group.together(
        lambda fresh: store.embedding_started(claim, _ids(fresh)),
        [document for document in documents if document.state is State.CHUNKS_STORED],
        _itself,
        Asset.EMBEDDINGS,
    )
    spending = _Spending(correlation_ids={document.document_id: str(document.correlation_id) for document in begun})
    begun = [replace(document, state=State.EMBEDDING_IN_PROGRESS) for document in begun]
    bought = _buy(group, begun, at_hand, spending)
    found: dict[UUID, tuple[VectorFacts, CheckResult]] = {}

    def conclude(wanted: Sequence[Document]) -> None:
        for document_id, facts in store.vector_facts(_ids(wanted), group.services.embedder.model).items():
            check = check_vectors_complete(facts, group.services.embedder.dimensions)
            require_passed([check])
            found[document_id] = facts, check
        store.embeddings_stored(claim, _ids(wanted))

    embedded = group.together(conclude, bought, _itself, Asset.EMBEDDINGS)
    for document in embedded:
        facts, check = found[document.document_id]
        group.reports.append(_report(group, document, facts, check, spending, time.monotonic() - started))
    return [replace(document, state=State.EMBEDDINGS_STORED, attempt=0) for document in embedded]


def _buy(group: Group, documents: Sequence[Document], at_hand: AtHand, spending: _Spending) -> list[Document]:
    """Get every chunk its vector, page by page; documents with an error are settled and not returned."""
    store, model = group.services.documents, group.services.embedder.model

    def reuse(wanted: Sequence[Document]) -> None:
        spending.copied.update(store.reuse_vectors(group.crew.claim, _ids(wanted), model))

    left = list(documents)
    doubted: set[Text] = set()
    is_paid_for = True  # some of it, so that it has to be looked for
    while left:
        if is_paid_for:
            left = group.together(reuse, left, _itself, Asset.EMBEDDINGS)
        texts, is_last = _missing_vectors(group, _ids(left), at_hand, spending)
        missing = _affordable(group, left, texts, spending)
        wanted = {_identity(text) for text in missing}
        mine, doubted = group.crew.purchases.take(wanted, doubted)
        is_paid_for = mine != wanted
        try:
            _request_all(group, [text for text in missing if _identity(text) in mine], spending)
        finally:
            failed = {_identity(text) for text in missing if text.document_id in spending.errors}
            group.crew.purchases.close(mine, mine - failed)
        for document in left:
            if document.document_id in spending.errors:
                group.settle(document, Asset.EMBEDDINGS, spending.errors[document.document_id])
        left = [document for document in left if document.document_id not in spending.errors]
        if is_last and not is_paid_for:
            break
    return left


def _missing_vectors(
    group: Group, document_ids: Sequence[UUID], at_hand: AtHand, spending: _Spending
) -> tuple[list[PendingText], bool]:
    """Texts without a vector, and whether these are all: what is at hand, the first time, and a page of the buffer."""
    texts: list[PendingText] = []
    to_read = []
    for document_id in sorted(document_ids):
        found = at_hand.pop(document_id, None)
        if found and document_id not in spending.copied:
            texts += found
        else:
            to_read.append(document_id)
    model = group.services.embedder.model
    page = group.services.documents.missing_vectors(to_read, model, PAGE_TEXTS) if to_read else []
    return texts + page, len(page) < PAGE_TEXTS


def _affordable(
    group: Group, documents: Sequence[Document], page: Sequence[PendingText], spending: _Spending
) -> list[PendingText]:
    """The texts of documents that are within the budgets; that others are not is noted as their error."""
    buying = {text.document_id for text in page}
    refused = group.services.budgets.refused([document for document in documents if document.document_id in buying])
    spending.errors.update(refused)
    return [text for text in page if text.document_id not in refused]


def _request_all(group: Group, missing: Sequence[PendingText], spending: _Spending) -> None:
    """One page of texts, in several requests at a time. Errors are noted for each document that they concern."""
    same_content: dict[Text, list[PendingText]] = defaultdict(list)
    for text in missing:
        same_content[_identity(text)].append(text)

    def request(batch: Sequence[PendingText]) -> None:
        documents = {text.document_id for text in batch}
        try:
            group.crew.go_on()
            group.services.documents.expect_held(group.crew.claim, list(_holders(batch, same_content)))
            _request(group, batch, same_content, spending)
        except RequestRejectedError as error:
            if len(documents) == 1:
                spending.errors.update(dict.fromkeys(documents, error))
                batch = _for_others(batch, same_content, spending)
            for document_id in {text.document_id for text in batch}:  # one document's text must not fail the others
                request([text for text in batch if text.document_id == document_id])
        except Exception as error:  # noqa: BLE001 - settled for each document by the caller
            spending.errors.update(dict.fromkeys(_holders(batch, same_content), error))

    for future in [group.crew.helpers.submit(request, batch) for batch in plan_batches(missing, identity=_identity)]:
        future.result()


def _request(
    group: Group, batch: Sequence[PendingText], same_content: dict[Text, list[PendingText]], spending: _Spending
) -> None:
    """One request to the vendor and one write of its answer."""
    embedder, store = group.services.embedder, group.services.documents
    served = sorted({spending.correlation_ids[text.document_id] for text in batch})
    with structlog.contextvars.bound_contextvars(correlation_ids=served):
        embeddings = embedder.embed([text.text for text in batch])
    validate_vectors(embeddings.vectors, len(batch), embedder.dimensions)
    rows = [(index, text) for index, first in enumerate(batch) for text in same_content[_identity(first)]]
    bill = embedding_call(embedder.model, embeddings.tokens, embeddings.seconds, batch, embeddings.call_id)
    spending.note(batch, bill)

    def write(rows: Sequence[tuple[int, PendingText]], bill: VendorCall | None) -> None:
        vectors = embeddings.vectors[[index for index, _ in rows]]
        store.store_vectors(group.crew.claim, [text for _, text in rows], vectors, embedder.model, bill)

    try:
        write(rows, bill)
    except ClaimLostError:  # of one of the documents: what was paid for the others is kept
        unpaid: VendorCall | None = bill
        for document_id in {text.document_id for _, text in rows}:
            try:
                write([row for row in rows if row[1].document_id == document_id], unpaid)
                unpaid = None
            except ClaimLostError as error:
                spending.errors[document_id] = error


def _holders(batch: Sequence[PendingText], same_content: dict[Text, list[PendingText]]) -> set[UUID]:
    return {text.document_id for first in batch for text in same_content[_identity(first)]}


def _for_others(
    batch: Sequence[PendingText], same_content: dict[Text, list[PendingText]], spending: _Spending
) -> list[PendingText]:
    """Of the texts of a refused request those that documents without an error have too, each once."""
    innocent = (
        [text for text in same_content[_identity(refused)] if text.document_id not in spending.errors]
        for refused in batch
    )
    return [texts[0] for texts in innocent if texts]


def _report(
    group: Group, document: Document, facts: VectorFacts, check: CheckResult, spending: _Spending, seconds: float
) -> StageReport:
    document_id, embedder = document.document_id, group.services.embedder
    tokens = spending.tokens[document_id]
    metadata: Metadata = {
        "filename": document.filename,
        "vectors": facts.vectors,
        "vectors_requested": spending.vectors[document_id],
        "vectors_reused": facts.vectors - spending.vectors[document_id],
        "model": embedder.model,
        "dimensions": embedder.dimensions,
        "tokens": tokens,
        "cost_usd": float(embedding_cost_usd(embedder.model, tokens)),
        "seconds": round(seconds, 3),
    }
    return StageReport(document_id, Asset.EMBEDDINGS, Verdict.DONE, metadata, (check,))


def _identity(text: PendingText) -> Text:
    return text.owner_id.bytes + text.chunk_sha256


def _ids(documents: Sequence[Document]) -> list[UUID]:
    return [document.document_id for document in documents]


def _itself(document: Document) -> Document:
    return document
