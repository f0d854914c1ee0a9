"""What pollers, sensors and listings cost in stores of very different sizes: the work is the same, the store is larger.

Each store has a process, and the processes take turns, so that what else the machine does slows all of them alike.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import dagster as dg
import psycopg2
import psycopg2.extras

from ingestion_pipeline.adapters.postgres.catalogue import PostgresCatalogue
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.catalogue import Position, Selection
from ingestion_pipeline.dagster_defs.assets import DOCUMENTS
from ingestion_pipeline.dagster_defs.resources import build_services
from ingestion_pipeline.definitions import build_definitions
from ingestion_pipeline.domain import Lane, State, document_id_for, sha256_of
from ingestion_pipeline.settings import PROJECT_ROOT, Settings
from ingestion_pipeline_tests.crowded_store import OWNER
from ingestion_pipeline_tests.performance.surroundings import Site, Surroundings
from ingestion_pipeline_tests.vector_library import analyse

BATCH = 200
PAGE = 50
AGAIN = 5  # of what can be done again and again, the median
KEYS_AT_ONCE = 5000
RETENTION_DAYS = 30.0
Milliseconds = dict[str, float]

# Nothing of the store itself is to be done: a measurement does what it brings along.
NOTHING_DUE = """
    update upload_pipeline.upload_jobs
    set
        next_attempt_at = now() + interval '1 day',
        parse_poll_at = case when parse_poll_at is not null then now() + interval '1 day' end,
        claim_expires_at = case when claimed_by is not null then now() + interval '1 day' end,
        restored_at = null,
        retired_at = now();
    update upload_pipeline.cancellations set settled_at = now()
"""
SETTLED = """
    update upload_pipeline.upload_jobs
    set retired_at = null, state_changed_at = now() - interval '40 days'
    where document_id in (
        select document_id from upload_pipeline.upload_jobs
        where state = 'complete' and retired_at is not null limit %s
    )
"""
MIDDLE = """
    select created_at, document_id from upload_pipeline.documents
    where owner_id = %s order by created_at, document_id
    offset (select count(*) / 2 from upload_pipeline.documents where owner_id = %s) limit 1
"""


def measure_stores(here: Surroundings, sites: Mapping[int, Site], rounds: int) -> dict[int, Milliseconds]:
    """Median milliseconds of each piece of work in each store, by its size; registering all keys is done once."""
    taken: dict[int, list[Milliseconds]] = {size: [] for size in sites}
    registered: dict[int, Milliseconds] = {}
    with ExitStack() as stack:
        processes = {size: stack.enter_context(here.process()) for size in sites}
        for size, site in sites.items():
            settings = here.settings(site, partition_retention_days=RETENTION_DAYS)
            registered[size] = processes[size](_prepare, settings, here.dagster(site), site.urls.owner)
        for _ in range(rounds):
            for size, run_in_it in processes.items():
                taken[size].append(run_in_it(_round))
    return {
        size: {**registered[size], **{name: median(found[name] for found in results) for name in results[0]}}
        for size, results in taken.items()
    }


def _prepare(settings: Settings, environment: Mapping[str, str], owner_url: str) -> Milliseconds:
    global _store  # noqa: PLW0603  one store a process
    os.environ.update(environment)
    _run(owner_url, NOTHING_DUE)
    _store = _Store(settings, owner_url, dg.DagsterInstance.from_config(str(PROJECT_ROOT)))
    started = time.perf_counter()
    _store.register_keys()
    seconds = time.perf_counter() - started
    _store.round()  # to warm up
    return {"register every partition": seconds * 1000}


def _round() -> Milliseconds:
    return _store.round()


class _Store:
    """A crowded store, its workers, its API and Dagster."""

    def __init__(self, settings: Settings, owner_url: str, instance: dg.DagsterInstance) -> None:
        self._taken: Milliseconds = {}
        self._owner_url = owner_url
        self._instance = instance
        self._services = build_services(settings)
        self._definitions = build_definitions({"services": self._services})
        api_url = settings.require("api_database_url")["api_database_url"]
        self._catalogue = PostgresCatalogue(Database(api_url, application_name="ingest-performance"))
        [middle] = _run(owner_url, MIDDLE, (OWNER, OWNER))
        self._middle = Position(*middle)

    def register_keys(self) -> None:
        """Every document has its partition."""
        keys = [str(row[0]) for row in _run(self._owner_url, "select document_id from upload_pipeline.documents")]
        for start in range(0, len(keys), KEYS_AT_ONCE):
            self._instance.add_dynamic_partitions(str(DOCUMENTS.name), keys[start : start + KEYS_AT_ONCE])

    def round(self) -> Milliseconds:
        """Each piece of work once."""
        self._taken = {}
        self._work()
        self._retire()
        self._list()
        return self._taken

    def _work(self) -> None:
        """Uploads come, are claimed by hand and by the sensor, and go."""
        documents, uploads = self._services.documents, _upload(self._owner_url, BATCH)
        batch = self._timed(
            f"claim {BATCH} documents",
            lambda: documents.claim_batch(Lane.SUBMIT, max_documents=BATCH, max_bytes=1 << 40),
        )
        assert set(batch.document_ids) == set(uploads)
        self._timed(f"load {BATCH} documents", lambda: documents.load(uploads), AGAIN)
        self._timed(f"renew a claim of {BATCH}", lambda: documents.renew_claim(batch.claim), AGAIN)
        documents.release_claim(batch.claim)
        asked = self._timed(f"tick: upload_sensor, {BATCH} uploads", lambda: self._tick("upload_sensor"))
        assert len(asked.run_requests) == 1
        for sensor in ("upload_sensor", "completion_sensor", "reconcile_sensor", "retention_sensor"):
            self._timed(f"tick: {sensor}, nothing due", lambda sensor=sensor: self._tick(sensor), AGAIN)
        _run(self._owner_url, "delete from upload_pipeline.documents where document_id = any(%s)", (uploads,))
        analyse(self._owner_url)  # no product deletes what it has just taken: nothing is to be seen of it

    def _retire(self) -> None:
        """Documents settled long ago lose their partitions."""
        _run(self._owner_url, SETTLED, (BATCH,))
        told = self._timed(f"tick: retention_sensor, {BATCH} to retire", lambda: self._tick("retention_sensor"))
        assert f"retired {BATCH}" in told.skip_message

    def _list(self) -> None:
        """The pages that people look at."""
        for name, selection, after in (
            (f"list the newest {PAGE}", Selection(), None),
            (f"list {PAGE} from the middle on", Selection(), self._middle),
            (f"list the newest {PAGE} that are complete", Selection(states=(State.COMPLETE,)), None),
        ):
            page = self._timed(
                name,
                lambda selection=selection, after=after: self._catalogue.list_documents(
                    OWNER, selection=selection, after=after, limit=PAGE
                ),
                AGAIN,
            )
            assert len(page) == PAGE
        self._timed("count by state", lambda: self._catalogue.count_by_state(OWNER), AGAIN)

    def _timed(self, name: str, work: Callable[[], Any], times: int = 1) -> Any:
        taken = []
        for _ in range(times):
            started = time.perf_counter()
            result = work()
            taken.append((time.perf_counter() - started) * 1000)
        self._taken[name] = median(taken)
        return result

    def _tick(self, sensor: str) -> Any:
        with dg.build_sensor_context(
            instance=self._instance, definitions=self._definitions, resources={"services": self._services}
        ) as context:
            return self._definitions.resolve_sensor_def(sensor).evaluate_tick(context)


def _upload(owner_url: str, count: int) -> list[UUID]:
    """New documents that are due."""
    hashes = [sha256_of(str(uuid4())) for _ in range(count)]
    rows = [(document_id_for(OWNER, sha256), OWNER, sha256) for sha256 in hashes]
    with closing(psycopg2.connect(owner_url)) as connection, connection, connection.cursor() as cursor:
        psycopg2.extras.execute_values(
            cursor,
            "insert into upload_pipeline.documents "
            "(document_id, owner_id, filename, content_type, size_bytes, sha256, object_key) values %s",
            rows,
            template="(%s, %s, 'new.md', 'text/markdown', 8000, %s, 'raw/new')",
        )
        psycopg2.extras.execute_values(
            cursor,
            "insert into upload_pipeline.upload_jobs (document_id, owner_id, correlation_id) values %s",
            [(row[0], OWNER, uuid4()) for row in rows],
        )
    return [row[0] for row in rows]


def _run(url: str, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    psycopg2.extras.register_uuid()
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []
