"""PostgreSQL that is killed, with all its processes, around the commit of each write of workers and API."""

import pytest

from ingestion_pipeline_tests.faults.cell import Cell, run
from ingestion_pipeline_tests.faults.kills import POSTGRES_KILLED
from ingestion_pipeline_tests.faults.room import Room


@pytest.mark.parametrize("cell", POSTGRES_KILLED, ids=lambda cell: cell.name)
def test_what_was_committed_stays_and_what_was_not_is_done_again(room: Room, cell: Cell) -> None:
    assert run(cell, room).verdict.problems() == []
