"""What the processes of the fault tests do: a worker that goes on as daemon and runs do together, and the HTTP API.

They are composed as the product composes itself; the journal, and a strike where there is one, stand around its ports.
"""

import threading
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import uvicorn

from ingestion_pipeline.adapters import llamacloud, object_store, openai_embedder  # noqa: F401  for who is forked
from ingestion_pipeline.adapters.postgres import connection
from ingestion_pipeline.api.app import create_app
from ingestion_pipeline.api.main import build_services as build_api_services
from ingestion_pipeline.api.server import server_config
from ingestion_pipeline.dagster_defs.resources import build_services
from ingestion_pipeline.domain import Lane, ParsedText
from ingestion_pipeline.errors import DatabaseUnavailableError
from ingestion_pipeline.logs import configure_logging
from ingestion_pipeline.pipeline.advance import advance_documents
from ingestion_pipeline.pipeline.claims import kept_alive
from ingestion_pipeline.pipeline.reconcile import reconcile
from ingestion_pipeline.pipeline.report import Verdict
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.settings import Settings
from ingestion_pipeline.stages.chunk import chunk
from ingestion_pipeline_tests.faults.journal import Journal, JournalledEmbedder, JournalledStore
from ingestion_pipeline_tests.faults.strikes import Deed, Moment, Strike, StruckStore, shift_clock

RECONCILE_SECONDS = 0.3
IDLE_SECONDS = 0.1
CLAIM_SECONDS = 1.5  # shorter than what may be set: recovery should take seconds
connection.IDLE_SECONDS = 3.0  # likewise


def settings_from(values: dict[str, Any]) -> Settings:
    """Settings of a process, past the least lease that they allow."""
    given = Settings(_env_file=None, **values)
    return given.model_copy(update={"claim_seconds": CLAIM_SECONDS})


def strike_from(values: dict[str, str] | None) -> Strike | None:
    """A strike as it came through JSON."""
    return values and Strike(values["method"], Moment(values["moment"]), Deed(values["deed"]))  # type: ignore[return-value]


def work(
    settings: dict[str, Any], strike: dict[str, str] | None, journal: str, cluster: str, clock_seconds: float = 0.0
) -> None:
    """Submit what was uploaded, process what is parsed, reconcile; for ever."""
    configure_logging()
    if clock_seconds:
        shift_clock(clock_seconds)
    services = build_services(settings_from(settings))
    book = Journal(Path(journal))
    documents: Any = JournalledStore(services.documents, book)
    if (struck := strike_from(strike)) is not None:
        documents = StruckStore(documents, struck, Path(cluster))
    services = replace(services, documents=documents, embedder=JournalledEmbedder(services.embedder, book))
    reconciled_at = 0.0
    while True:
        worked = False
        try:
            for lane in Lane:
                worked |= _batch(services, lane)
            if time.monotonic() - reconciled_at > RECONCILE_SECONDS:
                untold = reconcile(services).untold
                if untold:
                    claim = str(uuid4())
                    services.documents.claim_documents(untold, claim)
                    _run(services, claim)
                reconciled_at = time.monotonic()
        except DatabaseUnavailableError:
            worked = False
        book.note_round()
        if not worked:
            time.sleep(IDLE_SECONDS)


def _batch(services: Services, lane: Lane) -> bool:
    """What is due in a lane, as a run takes it; whether there was any."""
    limits = services.limits
    batch = services.documents.claim_batch(lane, max_documents=limits.batch_documents, max_bytes=limits.batch_bytes)
    if batch is None:
        return False
    failed = _run(services, batch.claim)
    services.documents.finish_batch(batch.batch_id, failed)
    return True


def _run(services: Services, claim: str) -> int:
    """What the step of a Dagster run does, without Dagster; how many documents failed."""
    failed = 0
    with kept_alive(services.documents, claim, services.limits.claim_seconds):
        documents = services.documents.load(services.documents.renew_claim(claim))
        for report in advance_documents(documents, claim, services, threading.Event()):
            if report.is_last:
                services.documents.release_claim(claim, [UUID(str(report.document_id))])
            failed += report.verdict is Verdict.FAILED
    return failed


def serve(settings: dict[str, Any], strike: dict[str, str] | None, cluster: str, clock_seconds: float = 0.0) -> None:
    """The HTTP API."""
    configure_logging()
    if clock_seconds:
        shift_clock(clock_seconds)
    given = Settings(_env_file=None, **settings)
    services = build_api_services(given)
    if (struck := strike_from(strike)) is not None:
        catalogue: Any = StruckStore(services.catalogue, struck, Path(cluster))
        services = replace(services, catalogue=catalogue)
    uvicorn.Server(server_config(create_app(services), given.api_host, given.api_port)).run()


def warm_up() -> None:
    """What would cost each process a second at its first use, done once before any is forked. Connects to nothing."""
    with TemporaryDirectory() as folder:
        nowhere = "http://127.0.0.1:9"
        database = "postgresql://nobody:nothing@127.0.0.1:9/nowhere"
        values = {
            **dict.fromkeys(("worker_database_url", "api_database_url"), database),
            **dict.fromkeys(("webhook_url", "llama_cloud_base_url", "openai_base_url"), nowhere),
            **dict.fromkeys(("api_key", "webhook_secret", "llama_cloud_api_key", "openai_api_key"), "warm" * 5),
            "object_store_dir": folder,
        }
        build_services(settings_from(values))
        create_app(build_api_services(settings_from(values)))
    chunk(UUID(int=0), ParsedText("# Warm\n\nA text.", (1,), (0,)))


ROLES = {"worker": work, "api": serve}
