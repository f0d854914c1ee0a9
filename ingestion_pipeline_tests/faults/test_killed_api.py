"""The API that is killed in mid-upload and while it takes webhooks."""

import pytest

from ingestion_pipeline_tests.faults.cell import Cell, run
from ingestion_pipeline_tests.faults.kills import APIS_KILLED
from ingestion_pipeline_tests.faults.room import Room


@pytest.mark.parametrize("cell", APIS_KILLED, ids=lambda cell: cell.name)
def test_what_a_killed_api_had_taken_goes_on_and_what_it_had_not_comes_again(room: Room, cell: Cell) -> None:
    assert run(cell, room).verdict.problems() == []
