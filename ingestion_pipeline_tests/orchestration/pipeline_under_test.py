"""The pipeline in this process: the real definitions, store and adapters, a real Dagster instance, mocks over HTTP.

Sensors are ticked and their runs executed by hand, so a test decides what happens in between.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import dagster as dg
import psycopg2
import psycopg2.extras
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from pydantic import SecretStr

from ingestion_pipeline.adapters.postgres.catalogue import PostgresCatalogue
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.catalogue import NewDocument
from ingestion_pipeline.dagster_defs.assets import DOCUMENTS
from ingestion_pipeline.dagster_defs.resources import build_services
from ingestion_pipeline.definitions import build_definitions
from ingestion_pipeline.domain import Document, document_id_for, sha256_of
from ingestion_pipeline.pipeline.report import Asset
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.settings import Settings
from mock_services.process import MockServices

if TYPE_CHECKING:
    from conftest import DatabaseUrls

OWNER = UUID("00000000-0000-4000-8000-00000000000a")
NOBODY_LISTENS = "http://127.0.0.1:9/webhooks/llamaparse"  # tests say themselves when the webhook comes


@dataclass
class PipelineUnderTest:
    """`submit` and `process` do what the daemon does: a tick of the sensor, then the runs that it asks for."""

    services: Services
    instance: dg.DagsterInstance
    mocks: MockServices
    owner_url: str
    catalogue: PostgresCatalogue

    @classmethod
    @contextmanager
    def over(
        cls, urls: "DatabaseUrls", objects: Path, mocks: MockServices, **changes: Any
    ) -> "Iterator[PipelineUnderTest]":
        """Composed as a worker composes itself, from settings, of which `changes` are other than in most tests."""
        given = {
            "worker_database_url": SecretStr(urls.worker),
            "object_store_dir": objects,
            "llama_cloud_api_key": SecretStr("llx-test"),
            "llama_cloud_base_url": mocks.llamacloud_url,
            "webhook_url": NOBODY_LISTENS,
            "webhook_secret": SecretStr("secret-of-the-webhooks"),
            "openai_api_key": SecretStr("sk-test"),
            "openai_base_url": mocks.openai_base_url,
            "vendor_timeout_seconds": 5,
            "max_attempts": 3,
        }
        settings = Settings(_env_file=None, **given | changes)
        with ExitStack() as stack:
            services = build_services(settings)
            services = replace(services, limits=replace(services.limits, sensor_wait_seconds=0))
            catalogue = PostgresCatalogue(Database(urls.api, application_name="ingest-api-test"))
            stack.callback(catalogue.close)
            instance = stack.enter_context(dg.DagsterInstance.ephemeral())
            yield cls(services, instance, mocks, urls.owner, catalogue)

    def with_services(self, **changes: Any) -> "PipelineUnderTest":
        """The same database, instance and mocks, seen by a worker that has other ports or limits."""
        return replace(self, services=replace(self.services, **changes))

    def with_limits(self, **changes: Any) -> "PipelineUnderTest":
        """The same with other limits."""
        return self.with_services(limits=replace(self.services.limits, **changes))

    @property
    def definitions(self) -> dg.Definitions:
        return build_definitions(resource_overrides={"services": self.services})

    def upload(self, text: str, name: str = "notes.md", content_type: str = "text/markdown") -> UUID:
        """A document as the API leaves it: the object, the row, the job."""
        data, sha256, key = text.encode(), sha256_of(text), f"raw/{OWNER}/{uuid4()}"
        self.services.objects.put(key, data)
        new = NewDocument(document_id_for(OWNER, sha256), name, content_type, len(data), sha256, key, uuid4())
        self.catalogue.register(OWNER, new)
        return new.document_id

    def tick(self, sensor: str) -> Any:
        """One tick, as the daemon evaluates it: `run_requests` or a `skip_message`."""
        definitions = self.definitions
        with dg.build_sensor_context(
            instance=self.instance, definitions=definitions, resources={"services": self.services}
        ) as context:
            return definitions.resolve_sensor_def(sensor).evaluate_tick(context)

    def execute(self, job: str, **options: Any) -> dg.ExecuteInProcessResult:
        """One run, to its end."""
        resolved = self.definitions.resolve_job_def(job)
        return resolved.execute_in_process(instance=self.instance, raise_on_error=False, **options)

    def tick_and_run(self, sensor: str, job: str) -> list[dg.ExecuteInProcessResult]:
        """A tick, and the runs that it asks for."""
        requests = self.tick(sensor).run_requests or []
        return [self.execute(job, run_config=request.run_config, tags=request.tags) for request in requests]

    def submit(self) -> list[dg.ExecuteInProcessResult]:
        return self.tick_and_run("upload_sensor", "submit")

    def process(self) -> list[dg.ExecuteInProcessResult]:
        return self.tick_and_run("completion_sensor", "process")

    def materialise(self, document_id: UUID, job: str = "process", **options: Any) -> dg.ExecuteInProcessResult:
        """A run of one partition, as the UI starts it."""
        return self.execute(job, partition_key=str(document_id), **options)

    def finish_parsing(self) -> None:
        """Wait for the parser, then say what its webhooks would have said."""
        for row in self.rows(
            "select parse_job_id from upload_pipeline.upload_jobs"
            " where state = 'parse_queued' and parse_outcome is null"
        ):
            outcome = wait_for(
                lambda job_id=row["parse_job_id"]: self.services.parser.status(job_id).outcome, "the parser is done"
            )
            assert self.services.documents.parse_ended(row["parse_job_id"], outcome)

    def complete(self) -> list[dg.ExecuteInProcessResult]:
        """The whole way of everything that is due; the runs of both jobs."""
        runs = self.submit()
        self.finish_parsing()
        return [*runs, *self.process()]

    def document(self, document_id: UUID) -> Document:
        [document] = self.services.documents.load([document_id])
        return document

    def partitions(self, asset: Asset) -> tuple[set[UUID], set[UUID]]:
        """Which documents are materialised and which failed, as Dagster itself computes it for its UI."""
        value = get_and_update_asset_status_cache_value(
            self.instance, dg.AssetKey(asset.value), DOCUMENTS, dynamic_partitions_loader=self.instance
        )
        if value is None:
            return set(), set()
        materialised = value.deserialize_materialized_partition_subsets(DOCUMENTS).get_partition_keys()
        failed = value.deserialize_failed_partition_subsets(DOCUMENTS).get_partition_keys()
        return {UUID(key) for key in materialised}, {UUID(key) for key in failed}

    def colours(self, document_id: UUID) -> dict[str, str]:
        """Of each asset what an operator sees of a document: green, red or nothing."""
        seen = {}
        for asset in Asset:
            materialised, failed = self.partitions(asset)
            seen[asset.value] = "red" if document_id in failed else "green" if document_id in materialised else ""
        return seen

    def verdicts(self, asset: Asset, check: str) -> dict[UUID, bool]:
        """What a check said of each document, the newest word of each."""
        key = dg.AssetCheckKey(dg.AssetKey(asset.value), check)
        records = self.instance.event_log_storage.get_asset_check_execution_history(key, limit=1000)
        found: dict[UUID, bool] = {}
        for record in records:  # newest first
            if record.partition is not None:
                found.setdefault(UUID(record.partition), record.status.value == "SUCCEEDED")
        return found

    def newest_of_check(self, asset: Asset, check: str) -> str:
        """What the UI shows of a check beside its asset; empty if there is nothing to show."""
        key = dg.AssetCheckKey(dg.AssetKey(asset.value), check)
        record = self.instance.event_log_storage.get_asset_check_summary_records([key])[key].last_check_execution_record
        return record.status.value if record else ""

    def observed(self, asset: Asset, document_id: UUID) -> dict[str, Any]:
        """The metadata of a document's newest observation; empty if there is none."""
        wanted = dg.AssetRecordsFilter(dg.AssetKey(asset.value), asset_partitions=[str(document_id)])
        records = self.instance.fetch_observations(wanted, limit=1).records
        return _values(records[0].asset_observation.metadata) if records else {}

    def materialised(self, asset: Asset, document_id: UUID) -> dict[str, Any]:
        """The metadata of a document's newest materialisation; empty if there is none."""
        wanted = dg.AssetRecordsFilter(dg.AssetKey(asset.value), asset_partitions=[str(document_id)])
        records = self.instance.fetch_materializations(wanted, limit=1).records
        return _values(records[0].asset_materialization.metadata) if records else {}

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        """Rows of the database, as its owner sees them."""
        with (
            closing(psycopg2.connect(self.owner_url)) as connection,
            connection,
            connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor,
        ):
            cursor.execute(statement, parameters)
            return [dict(row) for row in cursor.fetchall()] if cursor.description else []

    def run_unguarded(self, statements: str, parameters: dict[str, Any]) -> None:
        """Run SQL past triggers and foreign keys, as a restore or a slip of an administrator might."""
        with closing(psycopg2.connect(self.owner_url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("set local session_replication_role = replica")
            cursor.execute(statements, parameters)

    def job(self, document_id: UUID) -> dict[str, Any]:
        """A row of upload_jobs."""
        [row] = self.rows("select * from upload_pipeline.upload_jobs where document_id = %s", str(document_id))
        return row

    def due_now(self) -> None:
        """Let every retry and every poll be due, instead of waiting for it."""
        self.rows("update upload_pipeline.upload_jobs set next_attempt_at = now() where lane is not null")
        self.rows("update upload_pipeline.upload_jobs set parse_poll_at = now() where parse_poll_at is not null")

    def expire_claims(self) -> None:
        """Let every claim be that of a run which died long ago."""
        self.rows(
            "update upload_pipeline.upload_jobs set claim_expires_at = now() - interval '1 second'"
            " where claimed_by is not null"
        )

    def calls(self, service: str, operation: str) -> int:
        """How often a mock was asked for an operation."""
        counted = self.mocks.control(service, "GET", "calls")["operations"]  # type: ignore[arg-type]
        return int(counted.get(operation, {"calls": 0})["calls"])

    def texts_embedded(self) -> int:
        """How many texts the embedder was paid for."""
        return int(self.mocks.control("openai", "GET", "calls")["inputs"])


def _values(metadata: Any) -> dict[str, Any]:
    return {name: entry.value for name, entry in metadata.items()}


def failure_of(run: dg.ExecuteInProcessResult) -> tuple[str, dict[str, Any]]:
    """What a failed run says at its step: the description, and the metadata."""
    [event] = [event for event in run.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None, event.step_failure_data.error_display_string
    return failure.description or "", _values(failure.metadata)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first true value of `condition`; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return value


def document_text(title: str, paragraphs: int = 3) -> str:
    """Markdown that no other title has a chunk of."""
    sentences = [f"Paragraph {number} of {title}: valve {title}-{number} is closed." for number in range(paragraphs)]
    return "\n\n".join([f"# {title}", *sentences])


def only(results: Sequence[dg.ExecuteInProcessResult]) -> dg.ExecuteInProcessResult:
    """The one run of a list."""
    [result] = results
    return result
