"""Two workers on one document: one stands still past its lease, then goes on beside the one that took over."""

import pytest

from ingestion_pipeline_tests.faults.cell import Cell, run
from ingestion_pipeline_tests.faults.kills import WORKERS_STANDING
from ingestion_pipeline_tests.faults.room import Room


@pytest.mark.parametrize("cell", WORKERS_STANDING, ids=lambda cell: cell.name)
def test_a_worker_that_comes_too_late_changes_nothing_and_pays_for_nothing_more(room: Room, cell: Cell) -> None:
    assert run(cell, room).verdict.problems() == []
