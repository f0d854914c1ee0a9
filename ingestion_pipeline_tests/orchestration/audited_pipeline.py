"""Audits of a pipeline under test, and ways to bring its documents where an audit has something to look at."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.inventory import PostgresInventory
from ingestion_pipeline.audit.findings import Code, Finding
from ingestion_pipeline.audit.run import run_audit
from ingestion_pipeline.audit.services import Audit, Options
from ingestion_pipeline.audit.tally import Tally
from ingestion_pipeline.dagster_defs.partition_book import DagsterPartitionBook
from orchestration.pipeline_under_test import PipelineUnderTest, document_text

if TYPE_CHECKING:
    from conftest import DatabaseUrls

BUFFER_AGAIN = """
    insert into upload_pipeline.document_chunk_buffer (
        chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, first_page, last_page, heading_path,
        token_count, chunk_sha256, text
    )
    select
        chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, first_page, last_page, heading_path,
        token_count, chunk_sha256, text
    from upload_pipeline.document_chunks where document_id = %(id)s
"""


class RecordingTally(Tally):
    """A tally that forgets nothing: `seen` has for each subject its codes and whether they were mended."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, dict[str, bool]] = defaultdict(dict)

    def add(self, finding: Finding, *, mended: bool) -> None:
        super().add(finding, mended=mended)
        self.seen[finding.subject][finding.code.value] = mended


@dataclass
class AuditedPipeline:
    """`found` audits, `fixed` audits with --fix; both as the command does, with Dagster told long ago."""

    pipeline: PipelineUnderTest
    inventory: PostgresInventory
    options: Options = field(default_factory=lambda: Options(grace_seconds=0))

    @classmethod
    @contextmanager
    def over(cls, pipeline: PipelineUnderTest, urls: "DatabaseUrls") -> "Iterator[AuditedPipeline]":
        """The same database, as the role of the workers."""
        database = Database(urls.worker, application_name="ingest-audit-test")
        yield cls(pipeline, PostgresInventory(database))
        database.close()

    def run(self, *, objects: Any = None, with_dagster: bool = True, **options: Any) -> "RecordingTally":
        """One audit; `options` are those of Options."""
        tally = RecordingTally()
        run_audit(
            Audit(
                inventory=self.inventory,
                documents=self.pipeline.services.documents,
                objects=objects or self.pipeline.services.objects,
                partitions=DagsterPartitionBook(self.pipeline.instance) if with_dagster else None,
                model=self.pipeline.services.embedder.model,
                options=replace(self.options, **options),
                tally=tally,
            )
        )
        return tally

    def found(self, **options: Any) -> dict[str, set[str]]:
        """What an audit finds, by the id or the key that it speaks of; it changes nothing."""
        before = self.everything()
        tally = self.run(**options)
        assert self.everything() == before
        assert tally.mended.total() == 0
        return {subject: set(codes) for subject, codes in tally.seen.items()}

    def fixed(self, **options: Any) -> dict[str, tuple[int, int]]:
        """What an audit with --fix found and mended, by code."""
        tally = self.run(is_fixing=True, **options)
        return {code.value: (tally.found[code], tally.mended[code]) for code in Code if tally.found[code]}

    def everything(self) -> list[dict[str, Any]]:
        """All rows that an audit might change."""
        tables = ("documents", "upload_jobs", "events", "document_chunk_buffer",
                  "document_chunks", "document_vectors", "ingestion_batches")  # fmt: skip
        return [
            row
            for table in tables
            for row in self.pipeline.rows(f"select '{table}', t::text from upload_pipeline.{table} as t order by 2")
        ]

    def damage(self, statement: str, document_id: UUID | None = None) -> None:
        """Run SQL as somebody who is above triggers and foreign keys; `%(id)s` is the document."""
        self.pipeline.run_unguarded(statement, {"id": str(document_id)})

    def completed(self, *titles: str) -> list[UUID]:
        """Documents of several chunks that went the whole way."""
        document_ids = [self.pipeline.upload(document_text(title, paragraphs=60)) for title in titles]
        self.pipeline.complete()
        return document_ids

    def put_into(self, document_id: UUID, state: str) -> None:
        """A complete document as it was in an earlier state, with the buffers of that state."""
        if state not in ("parse_validated", "failed_chunking"):
            self.damage(BUFFER_AGAIN, document_id)
        if state in ("parse_validated", "failed_chunking", "chunks_stored"):
            self.damage("delete from upload_pipeline.document_vectors where document_id = %(id)s", document_id)
        self.damage("delete from upload_pipeline.document_chunks where document_id = %(id)s", document_id)
        self.damage(
            "update upload_pipeline.documents set completed_at = null, content_sha256 = null, embedding_model = null"
            " where document_id = %(id)s",
            document_id,
        )
        code = "'check_failed'" if state.startswith("failed") else "null"
        self.damage(
            f"update upload_pipeline.upload_jobs set state = '{state}', last_error_code = {code}"
            " where document_id = %(id)s",
            document_id,
        )

    def served(self, document_id: UUID) -> list[dict[str, Any]]:
        """What search serves of a document."""
        return self.pipeline.rows(
            "select c.ordinal, c.text, v.embedding::text, c.owner_id, v.owner_id as vectors_owner_id"
            " from upload_pipeline.document_chunks as c"
            " join upload_pipeline.document_vectors as v on v.chunk_id = c.chunk_id"
            " where c.document_id = %s and v.model = 'text-embedding-3-small' order by c.ordinal",
            str(document_id),
        )

    def history(self, document_id: UUID) -> list[str]:
        """Which states the audit took a document to."""
        rows = self.pipeline.rows(
            "select to_state from upload_pipeline.events where document_id = %s and actor = 'audit' order by event_id",
            str(document_id),
        )
        return [row["to_state"] for row in rows]
