"""Dagster's page of partitions as the UI asks for it, over very many of them, and over what retention leaves."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from statistics import median
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extras

from ingestion_pipeline_tests.performance.corpus import SMALL_BYTES, document
from ingestion_pipeline_tests.performance.live import Live, live
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Surroundings

ASSET = "finalized"
WARM_QUERIES = 5
SETTLED_SECONDS = 120.0
STATS = """
query Stats($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode { partitionStats { numMaterialized numPartitions numFailed } }
  }
}"""
KEYS = """
query Keys($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode { partitionKeys assetPartitionStatuses { __typename } }
  }
}"""
# What a run of each of these documents would have told Dagster of the last asset, made from the one that was told.
CLONE_EVENTS = """
    insert into dagster.event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
    select
        e.run_id, replace(e.event, e.partition, n.key), e.dagster_event_type, e.timestamp, e.step_key, e.asset_key,
        n.key
    from dagster.event_logs as e
    cross join (select md5('partition ' || i)::uuid::text as key from generate_series(%(first)s, %(last)s) as i) as n
    where e.partition = %(told)s and e.dagster_event_type = 'ASSET_MATERIALIZATION' and e.asset_key = %(asset)s
"""
CLONE_KEYS = """
    insert into dagster.dynamic_partitions (partitions_def_name, partition)
    select 'documents', md5('partition ' || i)::uuid::text from generate_series(%(first)s, %(last)s) as i
"""
RETIRE = "delete from dagster.dynamic_partitions where partition <> %(told)s"
FORGET = "delete from dagster.event_logs where partition <> %(told)s"


def measure_partitions(here: Surroundings, sizes: Sequence[int]) -> Iterator[Figure]:
    """The page of one asset with ever more partitions; then after all but one were retired, and after the runs went."""
    with live(here, "partitions") as stack:
        told = _complete_one(stack)
        made = 1
        for size in sizes:
            parameters = {"first": made, "last": size - 1, "told": told, "asset": f'["{ASSET}"]'}
            _run(stack, CLONE_EVENTS, parameters)
            _run(stack, CLONE_KEYS, parameters)
            made = size
            yield from _page(stack, f"{size:,} partitions", size)
        _run(stack, RETIRE, {"told": told})
        yield from _page(stack, f"{sizes[-1]:,} retired", 1)
        _run(stack, FORGET, {"told": told})
        yield from _page(stack, "their events deleted too", 1)


def _complete_one(stack: Live) -> str:
    """One document of which Dagster has been told."""
    with closing(stack.connect()) as connection:
        document_id: str = stack.upload(connection, "one.md", document("one", SMALL_BYTES).encode())["document_id"]
    deadline = time.monotonic() + SETTLED_SECONDS
    while _statistics(stack)["numMaterialized"] != 1:
        assert time.monotonic() < deadline, stack.count()
        time.sleep(0.2)
    return document_id


def _page(stack: Live, name: str, expected: int) -> Iterator[Figure]:
    """First the statistics are computed from events; then they come from Dagster's cache."""
    started = time.perf_counter()
    found = _statistics(stack)
    yield Figure(name, "statistics of an asset, first", time.perf_counter() - started, "s")
    assert (found["numMaterialized"], found["numPartitions"]) == (expected, expected), found
    for what, query in (("statistics of an asset, again", STATS), ("list of an asset's partitions", KEYS)):
        yield Figure(name, what, median(_seconds(stack, query) for _ in range(WARM_QUERIES)), "s")


def _statistics(stack: Live) -> dict[str, int]:
    answer: dict[str, int] = stack.stack.graphql(STATS, key={"path": [ASSET]})["assetNodeOrError"]["partitionStats"]
    return answer


def _seconds(stack: Live, query: str) -> float:
    started = time.perf_counter()
    stack.stack.graphql(query, key={"path": [ASSET]})
    return time.perf_counter() - started


def _run(stack: Live, statement: str, parameters: dict[str, object]) -> None:
    """As the owner of the stack's database."""
    folder = stack.stack.data_dir / "postgres"
    address = urlsplit(f"//127.0.0.1:{(folder / 'port').read_text().strip()}")
    connection = psycopg2.connect(
        host=address.hostname,
        port=address.port,
        user="ingest_owner",
        password=(folder / "password").read_text().strip(),
        dbname="postgres",
    )
    with closing(connection):
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            cursor.execute("analyze")
