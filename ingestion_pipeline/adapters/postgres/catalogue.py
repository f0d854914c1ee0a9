"""The API role's view of Postgres: every transaction acts for one owner, and row-level security sees to the rest."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from pgvector import HalfVector, Vector

from ingestion_pipeline.adapters.postgres.connection import Connection, Database
from ingestion_pipeline.adapters.postgres.ledger import record_calls
from ingestion_pipeline.adapters.postgres.queries import queries, uuid_array
from ingestion_pipeline.adapters.postgres.vector_precision import expect_precision
from ingestion_pipeline.catalogue import (
    CommitUncertainError,
    DocumentRecord,
    EventRecord,
    NewDocument,
    ParseNotice,
    Position,
    Selection,
)
from ingestion_pipeline.domain import Precision, SearchHit, State, VendorCall
from ingestion_pipeline.errors import (
    DatabaseUnavailableError,
    NotCancellableError,
    NotFoundError,
    NotRetryableError,
)

MOST_CANDIDATES = 1000  # pgvector's limit of hnsw.ef_search


class PostgresCatalogue:
    """Implements catalogue.Catalogue.

    `actor` is who appears in the documents' history; `precision` is that of the vectors, as the settings say;
    `search_candidates` is how many vectors a search of the index looks at before it believes in the nearest ones.
    """

    def __init__(
        self,
        database: Database,
        *,
        actor: str = "api",
        precision: Precision = Precision.HALF,
        search_candidates: int = 100,
    ) -> None:
        self._database = database
        self._actor = actor
        self._precision = precision
        self._search_candidates = search_candidates
        self._queries = queries()

    def register(self, owner_id: UUID, document: NewDocument) -> tuple[DocumentRecord, bool]:
        is_written = False
        try:
            with self._transaction(owner_id) as connection:
                registered = self._queries.register_document(
                    connection,
                    document_id=document.document_id,
                    owner_id=owner_id,
                    filename=document.filename,
                    content_type=document.content_type,
                    size_bytes=document.size_bytes,
                    sha256=document.sha256,
                    object_key=document.object_key,
                )
                is_new = registered is not None
                if is_new:
                    self._queries.enqueue_document(
                        connection,
                        document_id=document.document_id,
                        owner_id=owner_id,
                        correlation_id=document.correlation_id,
                    )
                record = self._get(connection, document.document_id)
                is_written = is_new
        except DatabaseUnavailableError as error:
            if is_written:
                raise CommitUncertainError(error.message) from error
            raise
        return record, is_new

    def get(self, owner_id: UUID, document_id: UUID) -> DocumentRecord:
        with self._transaction(owner_id) as connection:
            return self._get(connection, document_id)

    def find(self, owner_id: UUID, document_ids: Sequence[UUID]) -> list[DocumentRecord]:
        with self._transaction(owner_id) as connection:
            return [
                _document(row) for row in self._queries.get_documents(connection, document_ids=uuid_array(document_ids))
            ]

    def list_documents(
        self, owner_id: UUID, *, selection: Selection, after: Position | None, limit: int
    ) -> list[DocumentRecord]:
        with self._transaction(owner_id) as connection:
            rows = self._queries.list_documents(
                connection,
                owner_id=owner_id,
                states=None if selection.states is None else [state.value for state in selection.states],
                code=selection.code,
                has_error=selection.has_error,
                before_at=after.created_at if after else None,
                before_id=after.document_id if after else None,
                limit=limit,
            )
            return [_document(row) for row in rows]

    def retry(self, owner_id: UUID, document_id: UUID, *, start_over: bool) -> DocumentRecord:
        with self._transaction(owner_id) as connection:
            done = self._queries.retry_document(connection, document_id=document_id, start_over=start_over)["done"]
            record = self._get(connection, document_id)
        if not done:
            raise NotRetryableError(f"The document {document_id} is {record.state}: there is nothing to retry.")
        return record

    def cancel(self, owner_id: UUID, document_id: UUID) -> DocumentRecord:
        with self._transaction(owner_id) as connection:
            done = self._queries.cancel_document(connection, document_id=document_id)["done"]
            record = self._get(connection, document_id)
        if not done:
            raise NotCancellableError(f"The document {document_id} is {record.state}: there is nothing to cancel.")
        return record

    def events(self, owner_id: UUID, document_id: UUID, *, after_event_id: int, limit: int) -> list[EventRecord]:
        with self._transaction(owner_id) as connection:
            self._get(connection, document_id)
            rows = self._queries.list_events(
                connection, document_id=document_id, after_event_id=after_event_id, limit=limit
            )
            return [_event(row) for row in rows]

    def history(self, owner_id: UUID, document_id: UUID, *, limit: int) -> tuple[DocumentRecord, list[EventRecord]]:
        with self._transaction(owner_id) as connection:
            rows = list(self._queries.newest_events(connection, document_id=document_id, limit=limit))
            record = self._get(connection, document_id)
        return record, [_event(row) for row in rows]

    def count_by_state(self, owner_id: UUID) -> dict[State, int]:
        with self._transaction(owner_id) as connection:
            rows = self._queries.count_by_state(connection, owner_id=owner_id)
            return {State(row["state"]): row["documents"] for row in rows}

    def search(
        self, owner_id: UUID, *, vector: Sequence[float], model: str, limit: int, bill: VendorCall | None = None
    ) -> list[SearchHit]:
        """Exact without a vector index, and wherever that finds too few among the chunks of all owners.

        Vectors of chunks that are not served are looked at and passed over.
        """
        query = HalfVector(list(vector)) if self._precision is Precision.HALF else Vector(list(vector))
        parameters = {
            "owner_id": owner_id,
            "query": query.to_text(),  # one short text a query; bulk writes go in binary
            "model": model,
        }
        nearest, is_exact = limit, False
        with self._transaction(owner_id) as connection:
            if bill is not None:
                self._queries.do_not_wait_for_disk(connection)
                record_calls(connection, [bill], owner_id)
            while True:
                candidates = min(max(nearest, self._search_candidates), MOST_CANDIDATES)
                prepared = self._queries.prepare_search(connection, candidates=str(candidates))
                rows = list(self._queries.search(connection, limit=nearest, is_exact=is_exact, **parameters))
                served = [row for row in rows if row["ordinal"] is not None]
                are_all = len(rows) < nearest and (is_exact or not prepared["is_indexed"])
                if len(served) >= limit or are_all:
                    return [_hit(row) for row in served[:limit]]
                if len(rows) < nearest:
                    is_exact = True
                else:
                    nearest *= 4

    def receive_parse_event(self, source: str, notice: ParseNotice) -> str:
        with self._database.transaction(actor=f"webhook:{source}") as connection:
            row = self._queries.receive_parse_event(
                connection,
                source=source,
                event_id=notice.event_id,
                event_type=notice.event_type,
                parse_job_id=notice.job_id,
                outcome=notice.outcome.value if notice.outcome else None,
            )
            return str(row["result"])

    def check(self) -> None:
        self._database.check()
        with self._database.transaction(actor=self._actor) as connection:
            expect_precision(connection, self._precision)

    def close(self) -> None:
        """Close idle connections."""
        self._database.close()

    @contextmanager
    def _transaction(self, owner_id: UUID) -> Iterator[Connection]:
        with self._database.transaction(actor=self._actor, owner_id=owner_id) as connection:
            yield connection

    def _get(self, connection: Connection, document_id: UUID) -> DocumentRecord:
        for row in self._queries.get_documents(connection, document_ids=[document_id]):
            return _document(row)
        raise NotFoundError(f"There is no document {document_id}.")


def _document(row: dict[str, Any]) -> DocumentRecord:
    return DocumentRecord(
        **{
            **row,
            "sha256": bytes(row["sha256"]),
            "state": State(row["state"]),
            "failed_pages": tuple(row["failed_pages"] or ()),
        }
    )


def _event(row: dict[str, Any]) -> EventRecord:
    from_state = State(row["from_state"]) if row["from_state"] else None
    return EventRecord(**{**row, "from_state": from_state, "to_state": State(row["to_state"])})


def _hit(row: dict[str, Any]) -> SearchHit:
    return SearchHit(
        document_id=row["document_id"],
        chunk_id=row["chunk_id"],
        filename=row["filename"],
        ordinal=row["ordinal"],
        first_page=row["first_page"],
        last_page=row["last_page"],
        heading_path=tuple(row["heading_path"]),
        start=row["start_offset"],
        end=row["end_offset"],
        text=row["text"],
        score=row["score"],
    )
