"""The whole stack, once a session: `ingest up` as a process, for all tests that do not stop it."""

from collections.abc import Iterator

import pytest
from running_stack import RunningStack

POLL_SECONDS = 2
BREAKER_OPEN_SECONDS = 2


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Up and ready; parse jobs without a webhook are asked for, and ill vendors are tested, after so many seconds."""
    settings = {
        "INGEST_PARSE_POLL_SECONDS": str(POLL_SECONDS),
        "INGEST_BREAKER_OPEN_SECONDS": str(BREAKER_OPEN_SECONDS),
    }
    running = RunningStack(tmp_path_factory.mktemp("stack") / "data", settings)
    try:
        running.start()
        yield running
    finally:
        running.kill_everything()


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One that the tests of a module start and kill; nothing of it is left afterwards."""
    running = RunningStack(
        tmp_path_factory.mktemp("own") / "data", {"INGEST_CLAIM_SECONDS": "15", "INGEST_PARSE_POLL_SECONDS": "2"}
    )
    yield running
    if running.process is not None:
        running.kill_everything()
