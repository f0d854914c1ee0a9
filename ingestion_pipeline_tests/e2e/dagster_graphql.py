"""What an operator sees and does in the Dagster UI, by the queries that the UI sends."""

from typing import Any

from running_stack import RunningStack, wait_for

ASSETS = ("raw_upload", "parsed", "chunks", "embeddings", "finalized")
REPOSITORY = {"repositoryLocationName": "ingestion_pipeline", "repositoryName": "__repository__"}
PARTITIONS = """
query Partitions($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode {
      assetPartitionStatuses {
        ... on DefaultPartitionStatuses { materializedPartitions failedPartitions materializingPartitions }
      }
    }
  }
}"""
PARTITION_KEYS = """
query Keys($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { partitionKeys } } }"""
OBSERVATIONS = """
query Observations($key: AssetKeyInput!, $partitions: [String!]) {
  assetOrError(assetKey: $key) {
    ... on Asset {
      assetObservations(partitions: $partitions, limit: 1) {
        metadataEntries { label ... on TextMetadataEntry { text } }
      }
    }
  }
}"""
BACKFILL = """
mutation Backfill($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
    ... on UnauthorizedError { message }
  }
}"""
LAUNCH_RUN = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}"""
NEWEST_BACKFILL = """
{ partitionBackfillsOrError(limit: 1) { ... on PartitionBackfills { results { id status } } } }"""
RUNS_OF_BACKFILL = """
query RunsOfBackfill($id: String!) {
  runsOrError(filter: { tags: [{ key: "dagster/backfill", value: $id }] }) { ... on Runs { results { runId status } } }
}"""
RUN_STATUS = "query RunStatus($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def colours(stack: RunningStack, document_id: str) -> dict[str, str]:
    """Of each asset what the UI shows of a document: green, red, running or nothing."""
    return {asset: _colour(partitions(stack, asset), document_id) for asset in ASSETS}


def partitions(stack: RunningStack, asset: str) -> dict[str, list[str]]:
    """Of an asset the materializedPartitions, failedPartitions and materializingPartitions."""
    node = stack.graphql(PARTITIONS, key={"path": [asset]})["assetNodeOrError"]
    statuses: dict[str, list[str]] = node["assetPartitionStatuses"]
    return statuses


def partition_keys(stack: RunningStack, asset: str) -> list[str]:
    """The partitions that the UI lists, whatever became of them."""
    keys: list[str] = stack.graphql(PARTITION_KEYS, key={"path": [asset]})["assetNodeOrError"]["partitionKeys"]
    return keys


def _colour(statuses: dict[str, list[str]], document_id: str) -> str:
    for name, colour in (
        ("materializingPartitions", "running"),
        ("failedPartitions", "red"),
        ("materializedPartitions", "green"),
    ):
        if document_id in statuses[name]:
            return colour
    return ""


def wait_for_colours(stack: RunningStack, document_id: str, expected: dict[str, str], seconds: float = 30.0) -> None:
    """Dagster is told right after the state has changed; fails with what it shows instead."""
    shown: dict[str, str] = {}

    def as_expected() -> bool:
        shown.update(colours(stack, document_id))
        return shown == expected

    try:
        wait_for(as_expected, f"Dagster shows {expected}", seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; it shows {shown}") from None


def observation(stack: RunningStack, asset: str, document_id: str) -> dict[str, str]:
    """The text metadata of a document's newest observation."""
    answer = stack.graphql(OBSERVATIONS, key={"path": [asset]}, partitions=[document_id])
    found = answer["assetOrError"]["assetObservations"]
    return {entry["label"]: entry["text"] for entry in found[0]["metadataEntries"] if "text" in entry} if found else {}


def backfill(stack: RunningStack, document_ids: list[str]) -> None:
    """Materialise all assets of some partitions, as the UI does."""
    params: dict[str, Any] = {
        "assetSelection": [{"path": [asset]} for asset in ASSETS],
        "partitionNames": document_ids,
        "fromFailure": False,
        "tags": [],
    }
    answer = stack.graphql(BACKFILL, params=params)["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer


def materialise(stack: RunningStack, document_id: str) -> str:
    """Materialise all assets of one partition, as the UI does; returns the run's id."""
    params = {
        "mode": "default",
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": document_id}]},
        "runConfigData": "{}",
        "selector": {
            **REPOSITORY,
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": [asset]} for asset in ASSETS],
            "assetCheckSelection": [],
        },
    }
    answer = stack.graphql(LAUNCH_RUN, params=params)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run_id: str = answer["run"]["runId"]
    return run_id


def run_status(stack: RunningStack, run_id: str) -> str:
    status: str = stack.graphql(RUN_STATUS, id=run_id)["runOrError"]["status"]
    return status


def newest_backfill(stack: RunningStack) -> dict[str, str]:
    """Its id and status."""
    backfill: dict[str, str] = stack.graphql(NEWEST_BACKFILL)["partitionBackfillsOrError"]["results"][0]
    return backfill


def runs_of_backfill(stack: RunningStack, backfill_id: str) -> list[dict[str, str]]:
    """The runs that a backfill started: id and status."""
    runs: list[dict[str, str]] = stack.graphql(RUNS_OF_BACKFILL, id=backfill_id)["runsOrError"]["results"]
    return runs
