"""The audit's view of Postgres, as the role of the workers."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from ingestion_pipeline.adapters.postgres.connection import Connection, Database
from ingestion_pipeline.adapters.postgres.queries import queries, uuid_array
from ingestion_pipeline.domain import SETTLED, State, dead_letter_of
from ingestion_pipeline.inventory import ChunkFacts, ChunkMark, DocumentFacts, Mend, Shared, Standstill

FIRST_ID = UUID(int=0)
_TARGETS = {
    Mend.REEMBED: State.CHUNKS_STORED,
    Mend.REBUILD: State.PARSE_VALIDATED,
    Mend.REPARSE: State.UPLOADED,
}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class PostgresInventory:
    """Implements inventory.Inventory; `audit` appears in the documents' history."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = queries()

    def check(self) -> None:
        self._database.check()

    def close(self) -> None:
        """Close idle connections."""
        self._database.close()

    # documents

    def count_documents(self) -> int:
        with self._transaction() as connection:
            return int(self._queries.count_documents(connection)["documents"])

    def documents_after(self, after: UUID | None, limit: int) -> list[tuple[UUID, int]]:
        with self._transaction() as connection:
            rows = self._queries.documents_after(connection, after=after or FIRST_ID, limit=limit)
            return [(row["document_id"], row["size_bytes"]) for row in rows]

    def facts(self, document_ids: Sequence[UUID]) -> list[DocumentFacts]:
        with self._transaction() as connection:
            return [
                _facts(row) for row in self._queries.document_facts(connection, document_ids=uuid_array(document_ids))
            ]

    def marks(self, document_id: UUID, *, served: bool) -> list[ChunkMark]:
        ask = self._queries.served_marks if served else self._queries.buffered_marks
        with self._transaction() as connection:
            return [
                ChunkMark(row["ordinal"], row["start_offset"], row["end_offset"], bytes(row["chunk_sha256"]))
                for row in ask(connection, document_id=document_id)
            ]

    def existing(self, document_ids: Sequence[UUID]) -> set[UUID]:
        with self._transaction() as connection:
            rows = self._queries.existing_documents(connection, document_ids=uuid_array(document_ids))
            return {row["document_id"] for row in rows}

    # objects

    def files_in_use(self, keys: Sequence[str]) -> set[str]:
        with self._transaction() as connection:
            return {row["key"] for row in self._queries.objects_in_use(connection, keys=list(keys))}

    def texts_in_use(self, keys: Sequence[str]) -> set[str]:
        documents = {key: UUID(found[0]) for key in keys if (found := _UUID.search(key.rpartition("/")[2]))}
        with self._transaction() as connection:
            rows = self._queries.texts_in_use(
                connection, keys=list(documents), document_ids=uuid_array(documents.values())
            )
            used = {row["key"] for row in rows}
            if rest := [key for key in keys if key not in used]:
                used |= {row["key"] for row in self._queries.texts_referred_to(connection, keys=rest)}
        return used

    # work

    def jobs_without_document(self, limit: int) -> list[UUID]:
        with self._transaction() as connection:
            return [row["document_id"] for row in self._queries.jobs_without_document(connection, limit=limit)]

    def drop_job_without_document(self, document_id: UUID) -> bool:
        with self._transaction() as connection:
            return bool(self._queries.drop_job_without_document(connection, document_id=document_id))

    def shared_files(self, limit: int) -> list[Shared]:
        with self._transaction() as connection:
            return [_shared(row) for row in self._queries.shared_objects(connection, limit=limit)]

    def shared_parse_jobs(self, limit: int) -> list[Shared]:
        with self._transaction() as connection:
            return [_shared(row) for row in self._queries.shared_parse_jobs(connection, limit=limit)]

    def lost_claims(self, expired_seconds: float, limit: int) -> list[tuple[UUID, str, datetime]]:
        with self._transaction() as connection:
            rows = self._queries.lost_claims(connection, seconds=expired_seconds, limit=limit)
            return [(row["document_id"], row["claimed_by"], row["claim_expires_at"]) for row in rows]

    def unfinished_batches(self, age_seconds: float, limit: int) -> list[tuple[UUID, datetime]]:
        with self._transaction() as connection:
            rows = self._queries.unfinished_batches(connection, seconds=age_seconds, limit=limit)
            return [(row["batch_id"], row["created_at"]) for row in rows]

    def close_batch(self, batch_id: UUID) -> bool:
        with self._transaction() as connection:
            return bool(self._queries.close_batch(connection, batch_id=batch_id))

    def standstills(self, due_seconds: float) -> list[Standstill]:
        with self._transaction() as connection:
            found = [
                Standstill(row["lane"], row["documents"], row["due_since"])
                for row in self._queries.stalled_lanes(connection, seconds=due_seconds)
            ]
            unasked = self._queries.unasked_parse_jobs(connection, seconds=due_seconds)
            if unasked["documents"]:
                found.append(Standstill(None, unasked["documents"], unasked["due_since"]))
            return found

    def endless_parse_jobs(self, age_seconds: float, limit: int) -> list[tuple[UUID, str, datetime]]:
        with self._transaction() as connection:
            rows = self._queries.endless_parse_jobs(connection, seconds=age_seconds, limit=limit)
            return [(row["document_id"], row["parse_job_id"], row["state_changed_at"]) for row in rows]

    # mending

    def mark_untold(self, document_ids: Sequence[UUID]) -> set[UUID]:
        with self._transaction() as connection:
            rows = self._queries.mark_untold(connection, document_ids=uuid_array(document_ids))
            return {row["document_id"] for row in rows}

    def mend(self, facts: DocumentFacts, mends: Sequence[Mend], reason: str) -> bool:
        with self._transaction() as connection:
            if facts.state is None:
                return bool(self._queries.enqueue_forgotten(connection, document_id=facts.document_id))
            held = self._queries.hold_unmoved_job(
                connection,
                document_id=facts.document_id,
                state=facts.state.value,
                state_changed_at=facts.state_changed_at,
            )
            if held is None:
                return False
            for mend in mends:
                self._mend(connection, facts, facts.state, mend, reason)
            return True

    def _mend(self, connection: Connection, facts: DocumentFacts, state: State, mend: Mend, reason: str) -> None:
        one, several = {"document_id": facts.document_id}, {"document_ids": [facts.document_id]}
        if mend is Mend.ADOPT:
            self._queries.adopt_job(connection, **one)
        elif mend is Mend.CLEAR_BUFFER:
            self._queries.clear_chunk_buffer(connection, **several)
        elif mend is Mend.DROP_OUTDATED:
            self._queries.drop_outdated_vectors(connection, **several)
        elif mend is Mend.DROP_SERVED:
            self._queries.drop_served_chunks(connection, **several)
            self._queries.drop_served_vectors(connection, **one)
        elif target := _TARGETS.get(mend):
            self._queries.drop_unfit_vectors(connection, **one)
            if mend is not Mend.REEMBED:
                if facts.served.foreign_rows:
                    self._queries.drop_served_chunks(connection, **several)
                if facts.served.foreign_rows or not facts.has_proven_vectors:
                    self._queries.drop_served_vectors(connection, **one)
            self._send_back(connection, facts.document_id, state, target, reason)

    def _send_back(self, connection: Connection, document_id: UUID, state: State, target: State, reason: str) -> None:
        if target is State.CHUNKS_STORED and state in (State.CHUNKS_STORED, State.EMBEDDING_IN_PROGRESS):
            return  # what is missing is embedded anyway
        if state not in SETTLED:
            aside = dead_letter_of(state)
            stage = "chunks" if aside is State.FAILED_CHUNKING else "embeddings"
            self._queries.set_aside(
                connection, document_id=document_id, to_state=aside.value, message=reason, stage=stage
            )
        self._queries.send_back(connection, document_id=document_id, to_state=target.value)
        self._queries.reopen(connection, document_id=document_id)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._database.transaction(actor="audit") as connection:
            yield connection


def _facts(row: dict[str, Any]) -> DocumentFacts:
    sides: dict[str, dict[str, Any]] = {"buffered": {}, "served": {}}
    columns: dict[str, Any] = {}
    for name, value in row.items():
        side, _, field = name.partition("_")
        sides.get(side, columns)[field if side in sides else name] = _plain(value)
    return DocumentFacts(
        **{
            **columns,
            "state": State(columns["state"]) if columns["state"] else None,
            "page_numbers": tuple(columns["page_numbers"] or ()),
            "page_starts": tuple(columns["page_starts"] or ()),
            "buffered": ChunkFacts(**sides["buffered"]),
            "served": ChunkFacts(**sides["served"]),
        }
    )


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def _shared(row: dict[str, Any]) -> Shared:
    return Shared(row["subject"], tuple(row["document_ids"]))
