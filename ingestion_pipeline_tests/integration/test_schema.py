"""The schema as the first line of defence: transitions, history and the constraints that tie a state to its columns."""

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise, product
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import psycopg2.errors
import pytest
from conftest import DatabaseUrls
from stored_documents import BAD_FILE, OUTAGE, OWNER, Walk, events, job, register, sql

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import DEAD_LETTERS, HAPPY_PATH, TRANSITIONS, State, sha256_of

# Columns with which a job may be in any state: only the error code has to come or go with the state.
SETTLED_COLUMNS = "parse_job_id = 'job', parse_outcome = 'success', parse_poll_at = now()"


@pytest.fixture
def document_id(database_urls: DatabaseUrls) -> UUID:
    return register(database_urls.owner)[0]


@pytest.fixture
def owner(database_urls: DatabaseUrls) -> Iterator["psycopg2.extensions.cursor"]:
    """A cursor of the schema's owner, in one transaction that is rolled back."""
    with closing(psycopg2.connect(database_urls.owner)) as connection, connection.cursor() as cursor:
        yield cursor


@pytest.fixture
def store(database_urls: DatabaseUrls) -> Iterator[PostgresDocumentStore]:
    database = Database(database_urls.worker, application_name="test")
    yield PostgresDocumentStore(database, actor="run-7", claim_seconds=60.0)
    database.close()


def put_into(cursor: Any, document_id: UUID, state: State, columns: str = SETTLED_COLUMNS) -> None:
    """Set a state past the triggers, as if the document had come there."""
    cursor.execute("set local session_replication_role = replica")
    cursor.execute(
        f"update upload_pipeline.upload_jobs set {columns}, state = %s, last_error_code = %s where document_id = %s",
        (state.value, "code" if state in DEAD_LETTERS else None, document_id),
    )
    cursor.execute("set local session_replication_role = origin")


def attempt(cursor: Any, statement: str, parameters: Any = None) -> type[psycopg2.Error] | None:
    """The error that a statement ends with; it is undone either way."""
    cursor.execute("savepoint attempt")
    try:
        cursor.execute(statement, parameters)
    except psycopg2.Error as error:
        return type(error)
    else:
        assert cursor.rowcount == 1
        return None
    finally:
        cursor.execute("rollback to savepoint attempt")


def test_the_transitions_of_the_domain_are_those_of_the_schema(database_urls: DatabaseUrls) -> None:
    rows = sql(database_urls.owner, "select from_state, to_state from upload_pipeline.state_transitions")
    assert {(State(source), State(target)) for source, target in rows} == TRANSITIONS
    assert len(rows) == len(TRANSITIONS)


@pytest.mark.parametrize("source", list(State))
def test_from_each_state_exactly_the_allowed_states_are_reached(owner: Any, document_id: UUID, source: State) -> None:
    put_into(owner, document_id, source)
    reached = {
        target
        for target in State
        if target is not source
        and attempt(
            owner,
            "update upload_pipeline.upload_jobs set state = %s, last_error_code = %s where document_id = %s",
            (target.value, "code" if target in DEAD_LETTERS else None, document_id),
        )
        is None
    }
    assert reached == {target for start, target in TRANSITIONS if start is source}


def test_every_refused_transition_is_a_check_violation_that_names_both_states(owner: Any, document_id: UUID) -> None:
    refused = [pair for pair in product(State, State) if pair[0] is not pair[1] and pair not in TRANSITIONS]
    assert len(refused) == 12 * 11 - len(TRANSITIONS)
    for source, target in refused:
        put_into(owner, document_id, source)
        owner.execute("savepoint attempt")
        with pytest.raises(psycopg2.errors.CheckViolation, match=f"no transition from {source} to {target}"):
            owner.execute("update upload_pipeline.upload_jobs set state = %s", (target.value,))
        owner.execute("rollback to savepoint attempt")


@pytest.mark.parametrize("state", [state for state in State if state is not State.UPLOADED])
def test_no_job_begins_in_a_later_state(owner: Any, document_id: UUID, state: State) -> None:
    owner.execute("delete from upload_pipeline.upload_jobs")
    with pytest.raises(psycopg2.errors.CheckViolation, match="begins in state uploaded"):
        owner.execute(
            "insert into upload_pipeline.upload_jobs (document_id, owner_id, correlation_id, state, last_error_code) "
            "values (%s, %s, %s, %s, 'code')",
            (document_id, OWNER, uuid4(), state.value),
        )


def test_each_transition_of_a_life_appends_one_event(
    database_urls: DatabaseUrls, document_id: UUID, store: PostgresDocumentStore
) -> None:
    Walk(store, document_id).to(State.COMPLETE)
    path = [None, *(state.value for state in HAPPY_PATH)]
    superuser = sql(database_urls.owner, "select current_user")[0][0]
    assert events(database_urls.owner, document_id) == [
        (source, target, superuser if source is None else "run-7", 0, None) for source, target in pairwise(path)
    ]
    correlation_id = job(database_urls.owner, document_id)["correlation_id"]
    told = sql(database_urls.owner, "select distinct correlation_id, owner_id from upload_pipeline.events")
    assert told == [(correlation_id, OWNER)]


def test_failed_attempts_appear_in_the_history_with_their_code_and_number(
    database_urls: DatabaseUrls, document_id: UUID, store: PostgresDocumentStore
) -> None:
    walk = Walk(store, document_id)
    for _ in range(2):
        walk.take()
        store.retry_later(walk.document(), walk.claim, OUTAGE, 0.0)
    walk.take()
    store.dead_letter(walk.document(), walk.claim, BAD_FILE)
    assert events(database_urls.owner, document_id)[1:] == [
        ("uploaded", "uploaded", "run-7", 1, "vendor_unavailable"),
        ("uploaded", "uploaded", "run-7", 2, "vendor_unavailable"),
        ("uploaded", "failed_parse", "run-7", 3, "invalid_document"),
    ]
    messages = sql(database_urls.owner, "select message from upload_pipeline.events order by event_id desc limit 2")
    assert messages == [("the file is empty",), ("the vendor sleeps",)]


def test_claiming_renewing_and_releasing_are_no_history(
    database_urls: DatabaseUrls, document_id: UUID, store: PostgresDocumentStore
) -> None:
    store.claim_documents([document_id], "claim")
    store.renew_claim("claim")
    store.release_claim("claim")
    assert len(events(database_urls.owner, document_id)) == 1


def test_the_time_of_a_change_of_state_is_that_of_the_change_alone(
    database_urls: DatabaseUrls, document_id: UUID, store: PostgresDocumentStore
) -> None:
    before = job(database_urls.owner, document_id)["state_changed_at"]
    walk = Walk(store, document_id)
    walk.take()
    assert job(database_urls.owner, document_id)["state_changed_at"] == before
    walk.submit()
    assert job(database_urls.owner, document_id)["state_changed_at"] > before


@pytest.mark.parametrize(
    ("state", "columns"),
    [
        (State.UPLOADED, "claimed_by = 'run', claim_expires_at = null"),
        (State.UPLOADED, "claimed_by = null, claim_expires_at = now()"),
        (State.PARSE_QUEUED, "claimed_by = 'run', claim_expires_at = now(), parse_outcome = null"),
        (State.PARSE_QUEUED, "parse_job_id = null"),
        (State.PARSE_QUEUED, "parse_poll_at = null"),
        (State.PARSED, "parse_job_id = null"),
        (State.PARSED, "parse_outcome = 'error'"),
        (State.PARSED, "parse_outcome = null"),
        (State.COMPLETE, "last_error_code = 'code'"),
        (State.FAILED_PARSE, "last_error_code = null"),
        (State.FAILED_CHUNKING, "last_error_code = null"),
        (State.FAILED_EMBEDDING, "last_error_code = null"),
        (State.UPLOADED, "attempt = -1"),
        (State.UPLOADED, "parse_round = 0"),
        (State.UPLOADED, "parse_outcome = 'fine'"),
    ],
)
def test_columns_that_contradict_the_state_are_refused(
    owner: Any, document_id: UUID, state: State, columns: str
) -> None:
    put_into(owner, document_id, state)
    statement = f"update upload_pipeline.upload_jobs set {columns} where document_id = %s"
    assert attempt(owner, statement, (document_id,)) is psycopg2.errors.CheckViolation


def test_a_parsed_state_is_refused_where_an_outcome_is_not_known(owner: Any, document_id: UUID) -> None:
    put_into(
        owner, document_id, State.PARSE_QUEUED, "parse_job_id = 'job', parse_poll_at = now(), parse_outcome = null"
    )
    statement = "update upload_pipeline.upload_jobs set state = 'parsed' where document_id = %s"
    assert attempt(owner, statement, (document_id,)) is psycopg2.errors.CheckViolation


def test_the_lane_follows_from_the_state(owner: Any, document_id: UUID) -> None:
    lanes = {}
    for state in State:
        put_into(owner, document_id, state)
        owner.execute("select lane from upload_pipeline.upload_jobs")
        lanes[state] = owner.fetchone()[0]
    assert lanes == {
        state: "submit" if state is State.UPLOADED else "process" if state in HAPPY_PATH[1:-1] else None
        for state in State
    }
    put_into(
        owner, document_id, State.PARSE_QUEUED, "parse_job_id = 'job', parse_poll_at = now(), parse_outcome = null"
    )
    owner.execute("select lane from upload_pipeline.upload_jobs")
    assert owner.fetchone()[0] is None  # waits for the parser


@pytest.mark.parametrize(
    "columns",
    ["filename = ''", "filename = repeat('é', 128)", "size_bytes = 0", "sha256 = ''", "page_count = -1",
     "parsed_key = 'key'", "page_numbers = '{1,2}', page_starts = '{0}'", "completed_at = now()",
     "completed_at = now(), chunk_count = 0, content_sha256 = sha256, embedding_model = 'm'"],
)  # fmt: skip
def test_a_document_that_makes_no_sense_is_refused(owner: Any, document_id: UUID, columns: str) -> None:
    statement = f"update upload_pipeline.documents set {columns}"
    assert attempt(owner, statement) is psycopg2.errors.CheckViolation


def test_one_owner_has_one_document_of_a_content(database_urls: DatabaseUrls, document_id: UUID) -> None:
    again = (
        "insert into upload_pipeline.documents "
        "select (jsonb_populate_record(d, jsonb_build_object('document_id', %s, 'owner_id', %s))).* "
        "from upload_pipeline.documents as d limit 1"
    )
    with pytest.raises(psycopg2.errors.UniqueViolation):
        sql(database_urls.owner, again, (str(uuid4()), str(OWNER)))
    sql(database_urls.owner, again, (str(uuid4()), str(uuid4())))
    assert sql(database_urls.owner, "select count(distinct owner_id) from upload_pipeline.documents") == [(2,)]


def test_a_chunk_stands_at_a_place_of_its_own(database_urls: DatabaseUrls, document_id: UUID) -> None:
    statement = (
        "insert into upload_pipeline.document_chunk_buffer (chunk_id, document_id, owner_id, ordinal, start_offset, "
        "end_offset, first_page, last_page, heading_path, token_count, chunk_sha256, text) "
        "values (gen_random_uuid(), %s, %s, %s, %s, %s, 1, %s, '{}', %s, %s, %s)"
    )
    good = (document_id, OWNER, 0, 0, 5, 1, 3, sha256_of("a"), "a")
    sql(database_urls.owner, statement, good)
    with pytest.raises(psycopg2.errors.UniqueViolation):
        sql(database_urls.owner, statement, good)
    for place, value in ((2, -1), (4, 0), (5, 0), (6, 0), (7, b"short"), (8, "")):
        bad = [*good]
        bad[2], bad[place] = 1, value
        if place == 2:
            bad[2] = value
        with pytest.raises(psycopg2.errors.CheckViolation):
            sql(database_urls.owner, statement, bad)


def test_deleting_a_document_takes_all_that_belongs_to_it(
    database_urls: DatabaseUrls, document_id: UUID, store: PostgresDocumentStore
) -> None:
    Walk(store, document_id).to(State.COMPLETE)
    Walk(store, register(database_urls.owner)[0]).to(State.EMBEDDINGS_STORED)
    sql(database_urls.owner, "delete from upload_pipeline.documents")
    for table in ("upload_jobs", "events", "document_chunk_buffer", "document_chunks", "document_vectors"):
        assert sql(database_urls.owner, f"select count(*) from upload_pipeline.{table}") == [(0,)]
