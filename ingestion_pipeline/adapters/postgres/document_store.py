"""The workers' view of Postgres: claims, state changes with the writes that justify them, buffers."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg2.errors
from numpy.typing import NDArray

from ingestion_pipeline.adapters.postgres import leases
from ingestion_pipeline.adapters.postgres.binary_copy import chunk_rows, vector_rows
from ingestion_pipeline.adapters.postgres.connection import Connection, Database
from ingestion_pipeline.adapters.postgres.ledger import record_calls
from ingestion_pipeline.adapters.postgres.queries import UuidArray, queries, uuid_array
from ingestion_pipeline.adapters.postgres.vector_precision import expect_precision
from ingestion_pipeline.domain import (
    Document,
    Failure,
    Lane,
    ParseOutcome,
    Precision,
    State,
    VendorCall,
    dead_letter_of,
)
from ingestion_pipeline.errors import ClaimLostError
from ingestion_pipeline.ports import (
    Batch,
    Cancellation,
    ChunkResult,
    ParseResult,
    PendingText,
    PromotionFacts,
    VectorFacts,
)

COPY_BLOCK_BYTES = 1 << 17


class PostgresDocumentStore:
    """Implements ports.DocumentStore. `actor` is who appears in the documents' history."""

    def __init__(
        self, database: Database, *, actor: str, claim_seconds: float, precision: Precision = Precision.HALF
    ) -> None:
        self._database = database
        self._actor = actor
        self._claim_seconds = claim_seconds
        self._leases = leases.Leases(claim_seconds)
        self._precision = precision
        self._is_precision_checked = False
        self._queries = queries()

    # claims

    def claim_batch(self, lane: Lane, *, max_documents: int, max_bytes: int, document_bytes: int = 0) -> Batch | None:
        batch_id = uuid4()
        with self._transaction() as connection:
            claimed = self._queries.claim_batch(
                connection,
                lane=lane.value,
                batch_id=batch_id,
                claim=str(batch_id),
                claim_seconds=self._claim_seconds,
                max_documents=max_documents,
                max_bytes=max_bytes,
                document_bytes=document_bytes,
            )
            rows = list(claimed)
        if not rows:
            return None
        return Batch(batch_id, tuple(row["document_id"] for row in rows), tuple(row["correlation_id"] for row in rows))

    @contextmanager
    def announced_work(self, lane: Lane) -> Iterator[Callable[[float], bool]]:
        with self._database.announcements() as wait:
            yield lambda seconds: wait(lane.value, seconds)

    def active_batches(self, lane: Lane) -> int:
        with self._transaction() as connection:
            return int(self._queries.active_batches(connection, lane=lane.value)["batches"])

    def due_documents(self, lane: Lane, most: int) -> tuple[int, int]:
        with self._transaction() as connection:
            due = self._queries.due_documents(connection, lane=lane.value, most=most)
            return due["documents"], due["bytes"]

    def claim_documents(self, document_ids: Sequence[UUID], claim: str) -> list[UUID]:
        with self._transaction() as connection:
            rows = self._queries.claim_documents(
                connection, document_ids=uuid_array(document_ids), claim=claim, claim_seconds=self._claim_seconds
            )
            return [row["document_id"] for row in rows]

    def renew_claim(self, claim: str) -> list[UUID]:
        asked_at = leases.now()
        with self._transaction() as connection:
            rows = self._queries.renew_claim(connection, claim=claim, claim_seconds=self._claim_seconds)
            held = [row["document_id"] for row in rows]
        self._leases.renewed(claim, asked_at, held)
        return held

    def expect_held(self, claim: str, document_ids: Sequence[UUID]) -> None:
        lost = set(document_ids)
        if self._leases.has_run_out(claim):
            lost -= set(self.renew_claim(claim))
        else:
            lost = self._leases.lost(claim, lost)
        if lost:
            raise ClaimLostError(
                f"no longer this run's, which stood still: {len(lost)} of {len(document_ids)} documents"
            )

    def release_claim(self, claim: str, document_ids: Sequence[UUID] | None = None) -> None:
        with self._transaction() as connection:
            self._queries.release_claim(
                connection, claim=claim, document_ids=None if document_ids is None else uuid_array(document_ids)
            )
        if document_ids is None:
            self._leases.forget(claim)

    def abandon_claim(self, claim: str) -> None:
        with self._transaction() as connection:
            list(self._queries.renew_claim(connection, claim=claim, claim_seconds=0))
        self._leases.forget(claim)

    def release_expired_claims(self) -> list[tuple[UUID, State]]:
        with self._transaction() as connection:
            return [
                (row["document_id"], State(row["state"])) for row in self._queries.release_expired_claims(connection)
            ]

    def load(self, document_ids: Sequence[UUID]) -> list[Document]:
        with self._transaction() as connection:
            rows = self._queries.load_documents(connection, document_ids=uuid_array(document_ids))
            return [_document(row) for row in rows]

    def finish_batch(self, batch_id: UUID, failed_count: int) -> None:
        with self._transaction() as connection:
            self._queries.finish_batch(connection, batch_id=batch_id, failed_count=failed_count)

    # parsing

    def parse_submitted(self, document: Document, claim: str, parse_job_id: str, poll_seconds: float) -> None:
        with self._transaction() as connection:
            self._queries.lock_parse_job(connection, parse_job_id=parse_job_id)
            _expect_one(
                self._queries.record_parse_submitted(
                    connection,
                    document_id=document.document_id,
                    claim=claim,
                    parse_job_id=parse_job_id,
                    poll_seconds=poll_seconds,
                ),
                document,
            )
            earlier = self._queries.earlier_outcome(connection, parse_job_id=parse_job_id)
            if earlier:
                self._queries.apply_parse_outcome(connection, parse_job_id=parse_job_id, outcome=earlier["outcome"])

    def parse_ended(self, parse_job_id: str, outcome: ParseOutcome) -> bool:
        with self._transaction() as connection:
            row = self._queries.apply_parse_outcome(connection, parse_job_id=parse_job_id, outcome=outcome.value)
            return bool(row["applied"])

    def overdue_parse_jobs(self, *, max_documents: int, poll_seconds: float) -> list[tuple[UUID, str]]:
        with self._transaction() as connection:
            rows = self._queries.overdue_parse_jobs(connection, max_documents=max_documents, poll_seconds=poll_seconds)
            return [(row["document_id"], row["parse_job_id"]) for row in rows]

    def parsed(self, claim: str, results: Sequence[ParseResult]) -> None:
        rows = [
            {
                "document_id": str(result.document.document_id),
                "parsed_key": result.parsed_key,
                "parsed_sha256": result.sha256.hex(),
                "page_numbers": result.parsed.page_numbers,
                "page_starts": result.parsed.page_starts,
                "failed_pages": result.parsed.failed_pages,
            }
            for result in results
        ]
        with self._advancing(claim, uuid_array(_ids(results)), State.PARSED, State.PARSE_VALIDATED) as connection:
            self._queries.record_parsed(connection, rows=json.dumps(rows))
            record_calls(connection, [result.bill for result in results if result.bill is not None])

    # chunks and vectors

    def chunks_stored(self, claim: str, results: Sequence[ChunkResult]) -> set[UUID]:
        document_ids = uuid_array(_ids(results))
        with self._advancing(claim, document_ids, State.PARSE_VALIDATED, State.CHUNKS_STORED) as connection:
            self._queries.clear_chunk_buffer(connection, document_ids=document_ids)
            with connection.cursor() as cursor:
                cursor.copy_expert(self._queries.copy_chunks.sql, chunk_rows(results), COPY_BLOCK_BYTES)
            self._queries.record_chunk_totals(
                connection,
                document_ids=document_ids,
                chunk_counts=[len(result.chunks) for result in results],
                token_counts=[sum(chunk.token_count for chunk in result.chunks) for result in results],
            )
            rows = self._queries.documents_with_vectors(connection, document_ids=document_ids)
            return {row["document_id"] for row in rows}

    def embedding_started(self, claim: str, document_ids: Sequence[UUID]) -> None:
        with self._advancing(claim, uuid_array(document_ids), State.CHUNKS_STORED, State.EMBEDDING_IN_PROGRESS):
            pass

    def reuse_vectors(self, claim: str, document_ids: Sequence[UUID], model: str) -> dict[UUID, int]:
        wanted = uuid_array(document_ids)
        with self._transaction() as connection:
            self._hold(connection, claim, wanted)
            rows = self._queries.reuse_vectors(connection, document_ids=wanted, model=model)
            return dict(Counter(row["document_id"] for row in rows))

    def missing_vectors(self, document_ids: Sequence[UUID], model: str, most: int | None = None) -> list[PendingText]:
        with self._transaction() as connection:
            rows = self._queries.missing_vectors(
                connection, document_ids=uuid_array(document_ids), model=model, most=most
            )
            return [PendingText(**{**row, "chunk_sha256": bytes(row["chunk_sha256"])}) for row in rows]

    def store_vectors(
        self,
        claim: str,
        texts: Sequence[PendingText],
        vectors: NDArray[np.float32],
        model: str,
        bill: VendorCall | None = None,
    ) -> None:
        try:
            self._store_vectors(claim, texts, vectors, model, bill)
        except psycopg2.errors.UniqueViolation:  # written before, by a try whose commit was not heard of
            self._store_vectors(claim, texts, vectors, model, bill, staged=True)

    def _store_vectors(
        self,
        claim: str,
        texts: Sequence[PendingText],
        vectors: NDArray[np.float32],
        model: str,
        bill: VendorCall | None,
        *,
        staged: bool = False,
    ) -> None:
        rows = vector_rows(texts, vectors, model, self._precision)
        with self._transaction() as connection:
            self._hold(connection, claim, uuid_array({text.document_id for text in texts}))
            if not self._is_precision_checked:
                expect_precision(connection, self._precision)
                self._is_precision_checked = True
            copy = self._queries.copy_staged_vectors if staged else self._queries.copy_vectors
            if staged:
                self._queries.create_staged_vectors(connection)
            with connection.cursor() as cursor:
                cursor.copy_expert(copy.sql, rows, COPY_BLOCK_BYTES)
            if staged:
                self._queries.store_staged_vectors(connection)
            record_calls(connection, [bill] if bill is not None else [])

    def vector_facts(self, document_ids: Sequence[UUID], model: str) -> dict[UUID, VectorFacts]:
        with self._transaction() as connection:
            rows = self._queries.vector_facts(connection, document_ids=uuid_array(document_ids), model=model)
            return {row.pop("document_id"): VectorFacts(**row) for row in rows}

    def embeddings_stored(self, claim: str, document_ids: Sequence[UUID]) -> None:
        with self._advancing(claim, uuid_array(document_ids), State.EMBEDDING_IN_PROGRESS, State.EMBEDDINGS_STORED):
            pass

    def promote(
        self, claim: str, document_ids: Sequence[UUID], model: str, accept: Callable[[UUID, PromotionFacts], None]
    ) -> None:
        wanted = uuid_array(document_ids)
        with self._advancing(claim, wanted, State.EMBEDDINGS_STORED, State.COMPLETE) as connection:
            self._queries.drop_served_chunks(connection, document_ids=wanted)
            self._queries.promote_chunks(connection, document_ids=wanted)
            promoted: dict[UUID, PromotionFacts] = {}
            with_other_vectors: list[UUID] = []
            for row in self._queries.promotion_facts(connection, document_ids=wanted, model=model):
                document_id = row.pop("document_id")
                if row.pop("vectors") > row["served_chunks"]:
                    with_other_vectors.append(document_id)
                promoted[document_id] = PromotionFacts(**{**row, "content_sha256": _bytes(row["content_sha256"])})
                accept(document_id, promoted[document_id])
            self._queries.record_completion(
                connection,
                document_ids=uuid_array(promoted),
                model=model,
                counts=[facts.served_chunks for facts in promoted.values()],
                tokens=[facts.tokens for facts in promoted.values()],
                hashes=[facts.content_sha256 for facts in promoted.values()],
            )
            if with_other_vectors:
                self._queries.drop_outdated_vectors(connection, document_ids=uuid_array(with_other_vectors))
            self._queries.clear_chunk_buffer(connection, document_ids=wanted)

    # failures

    def retry_later(self, document: Document, claim: str, failure: Failure, delay_seconds: float) -> None:
        with self._transaction() as connection:
            changed = self._queries.record_retry(
                connection,
                document_id=document.document_id,
                claim=claim,
                delay_seconds=delay_seconds,
                **_error_columns(failure),
            )
            _expect_one(changed, document)

    def postpone(self, document: Document, claim: str, failure: Failure, delay_seconds: float, attempt: int) -> None:
        with self._transaction() as connection:
            changed = self._queries.record_postponement(
                connection,
                document_id=document.document_id,
                claim=claim,
                attempt=attempt,
                delay_seconds=delay_seconds,
                **_error_columns(failure),
            )
            _expect_one(changed, document)

    def resubmit(self, document: Document, claim: str | None, failure: Failure, delay_seconds: float) -> None:
        with self._transaction() as connection:
            changed = self._queries.resubmit(
                connection,
                document_id=document.document_id,
                claim=claim,
                delay_seconds=delay_seconds,
                **_error_columns(failure),
            )
            _expect_one(changed, document)

    def dead_letter(self, document: Document, claim: str, failure: Failure) -> None:
        with self._transaction() as connection:
            changed = self._queries.record_dead_letter(
                connection,
                document_id=document.document_id,
                claim=claim,
                from_state=document.state.value,
                to_state=dead_letter_of(document.state).value,
                **_error_columns(failure),
            )
            _expect_one(changed, document)

    def replay(self, document: Document, *, start_over: bool = False) -> State:
        with self._transaction() as connection:
            row = self._queries.replay(
                connection,
                document_id=document.document_id,
                from_state=document.state.value,
                start_over=start_over,
            )
            if row is None or row["state"] is None:
                raise ClaimLostError(f"document {document.document_id} has moved on")
            return State(row["state"])

    def due_cancellations(self, *, max_documents: int, again_seconds: float) -> list[Cancellation]:
        with self._transaction() as connection:
            rows = self._queries.due_cancellations(connection, max_documents=max_documents, again_seconds=again_seconds)
            return [Cancellation(**row) for row in rows]

    def settle_cancellation(self, cancellation: Cancellation) -> None:
        with self._transaction() as connection:
            self._queries.settle_cancellation(connection, cancellation_id=cancellation.cancellation_id)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._database.transaction(actor=self._actor) as connection:
            yield connection

    @contextmanager
    def _advancing(self, claim: str, document_ids: UuidArray, source: State, target: State) -> Iterator[Connection]:
        """A transaction that takes documents a state further with what is written in it."""
        with self._transaction() as connection:
            lost = self._queries.advance(
                connection, document_ids=document_ids, claim=claim, from_state=source.value, to_state=target.value
            )
            _expect_none(lost)
            yield connection

    def _hold(self, connection: Connection, claim: str, document_ids: UuidArray) -> None:
        _expect_none(self._queries.hold_claim(connection, document_ids=document_ids, claim=claim))


def _ids(results: Sequence[ParseResult] | Sequence[ChunkResult]) -> list[UUID]:
    return [result.document.document_id for result in results]


def _expect_none(lost: Iterable[dict[str, Any]]) -> None:
    document_ids = sorted(str(row["document_id"]) for row in lost)
    if document_ids:
        named = ", ".join(document_ids[:3])
        raise ClaimLostError(f"no longer this run's, or moved on: {len(document_ids)} documents: {named}")


def _expect_one(changed: int, document: Document) -> None:
    if changed != 1:
        raise ClaimLostError(f"document {document.document_id} is no longer this run's, or has moved on")


def _error_columns(failure: Failure) -> dict[str, str]:
    return {"code": failure.code, "message": failure.message, "stage": failure.stage}


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _document(row: dict[str, Any]) -> Document:
    return Document(
        **{
            **row,
            "sha256": bytes(row["sha256"]),
            "parsed_sha256": _bytes(row["parsed_sha256"]),
            "state": State(row["state"]),
            "parse_outcome": ParseOutcome(row["parse_outcome"]) if row["parse_outcome"] else None,
            "page_numbers": tuple(row["page_numbers"] or ()),
            "page_starts": tuple(row["page_starts"] or ()),
            "failed_pages": tuple(row["failed_pages"] or ()),
        }
    )
