"""One room for all cells that a process of the tests runs."""

from collections.abc import Iterator

import pytest

from ingestion_pipeline_tests.faults.room import Room, open_room


@pytest.fixture(scope="session")
def room() -> Iterator[Room]:
    """A PostgreSQL server that may be killed, mocks, and where processes are forked."""
    with open_room() as opened:
        yield opened
