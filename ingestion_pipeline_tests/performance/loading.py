"""Brings files to where parsing has ended, as the API, a submitting run and the parser's webhook would."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import psycopg2
import psycopg2.extras

from ingestion_pipeline.adapters.postgres.catalogue import PostgresCatalogue
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.catalogue import NewDocument
from ingestion_pipeline.dagster_defs.resources import build_services
from ingestion_pipeline.domain import Lane, ParseOutcome, document_id_for, sha256_of
from ingestion_pipeline.pipeline.services import Services
from ingestion_pipeline.settings import Settings
from ingestion_pipeline.stages.normalise import normalise_encoded
from ingestion_pipeline_tests.performance import limit, worker

POLL_SECONDS = 0.05
PARSE_TIMEOUT_SECONDS = 600.0
UNPARSED = """
select document_id, parse_job_id from upload_pipeline.upload_jobs where state = 'parse_queued' and parse_outcome is null
"""
RESULTS = """
select d.filename, j.parse_job_id from upload_pipeline.documents as d
inner join upload_pipeline.upload_jobs as j using (document_id) order by d.filename
"""
UNFINISHED = """
select state, last_error_message, count(*) from upload_pipeline.upload_jobs where state <> 'complete' group by 1, 2
"""
TO_PARSED = "update upload_pipeline.upload_jobs set state = 'parsed' where state = 'parse_queued' and lane = 'process'"
STORE_TEXTS = """
update upload_pipeline.documents as d
set
    parsed_key = t.key, parsed_sha256 = t.sha256, page_numbers = t.numbers, page_starts = t.starts,
    failed_pages = '{}', page_count = cardinality(t.numbers)
from (values %s) as t (document_id, key, sha256, numbers, starts)
where d.document_id = t.document_id
"""
TO_VALIDATED = "update upload_pipeline.upload_jobs set state = 'parse_validated' where state = 'parsed'"


def load_parsed(
    settings: Settings, owner_url: str, files: Sequence[Path], dagster_environment: Mapping[str, str]
) -> list[UUID]:
    """Upload files, have the mock parse them, and leave their documents, which are returned, in state parsed."""
    services = build_services(settings)
    uploaded = upload(settings, services, files)
    worker.prepare(settings, dagster_environment, Lane.SUBMIT)
    worker.work()
    deadline = time.monotonic() + PARSE_TIMEOUT_SECONDS
    with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        while waiting := _rows(cursor, UNPARSED):
            assert time.monotonic() < deadline, f"not parsed within {PARSE_TIMEOUT_SECONDS} s: {len(waiting)} documents"
            for _, job_id in waiting:
                outcome = services.parser.status(job_id).outcome
                if outcome is None:
                    time.sleep(POLL_SECONDS)
                    break
                assert outcome is ParseOutcome.SUCCESS, (job_id, outcome)
                services.documents.parse_ended(job_id, outcome)
        cursor.execute(TO_PARSED)
        cursor.execute("vacuum analyze upload_pipeline.documents, upload_pipeline.upload_jobs")
    return uploaded


def validate_parsed(settings: Settings, owner_url: str) -> None:
    """Take documents from parsed to parse_validated: the normalised texts are in the object store."""
    services = build_services(settings)
    with closing(psycopg2.connect(owner_url)) as connection, connection, connection.cursor() as cursor:
        found = _rows(cursor, "select document_id, owner_id, parse_job_id from upload_pipeline.upload_jobs")
        rows = []
        for document_id, owner_id, job_id in found:
            encoded = normalise_encoded(services.parser.pages(job_id))
            key = f"parsed/{owner_id}/{document_id}.md"
            services.objects.put(key, encoded.data)
            rows.append((document_id, key, encoded.sha256, list(encoded.page_numbers), list(encoded.page_starts)))
        psycopg2.extras.execute_values(cursor, STORE_TEXTS, rows, template="(%s::uuid, %s, %s::bytea, %s, %s)")
        cursor.execute(TO_VALIDATED)


def results_of(settings: Settings, owner_url: str) -> limit.Results:
    """Where the limit finds the texts of documents whose parsing has ended."""
    with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cursor:
        jobs = _rows(cursor, RESULTS)
    return limit.Results(settings.llama_cloud_base_url, [(str(name), str(job)) for name, job in jobs])


def upload(settings: Settings, services: Services, files: Sequence[Path]) -> list[UUID]:
    """Documents as the API leaves them: the object, the row, the job."""
    owner = settings.api_owner_id
    values = settings.require("api_database_url")
    catalogue = PostgresCatalogue(Database(values["api_database_url"], application_name="ingest-performance"))
    uploaded = []
    for file in files:
        data, key = file.read_bytes(), f"raw/{owner}/{uuid4()}"
        sha256 = sha256_of(data.decode())
        services.objects.put(key, data)
        new = NewDocument(document_id_for(owner, sha256), file.name, "text/markdown", len(data), sha256, key, uuid4())
        catalogue.register(owner, new)
        uploaded.append(new.document_id)
    catalogue.close()
    return uploaded


def assert_complete(owner_url: str) -> None:
    """Fail with states and errors unless every document is complete: a figure of half the work would be none."""
    with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cursor:
        unfinished = _rows(cursor, UNFINISHED)
    assert not unfinished, f"not complete: {unfinished}"


def count(owner_url: str, table: str) -> int:
    """Rows of one of the pipeline's tables."""
    with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cursor:
        return int(_rows(cursor, f"select count(*) from upload_pipeline.{table}")[0][0])


def _rows(cursor: psycopg2.extensions.cursor, statement: str) -> list[tuple[object, ...]]:
    cursor.execute(statement)
    return cursor.fetchall()
