"""Workers that are killed right before and right after the commit of each of their writes."""

import pytest

from ingestion_pipeline_tests.faults.cell import Cell, run
from ingestion_pipeline_tests.faults.kills import WORKERS_KILLED
from ingestion_pipeline_tests.faults.room import Room


@pytest.mark.parametrize("cell", WORKERS_KILLED, ids=lambda cell: cell.name)
def test_what_a_killed_worker_had_is_taken_up_where_it_was(room: Room, cell: Cell) -> None:
    assert run(cell, room).verdict.problems() == []
