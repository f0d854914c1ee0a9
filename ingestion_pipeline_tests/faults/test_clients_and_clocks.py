"""Twenty clients with the same documents, connections that are used up, clocks that are wrong, and no fault at all."""

import pytest

from ingestion_pipeline_tests.faults.cell import Cell, run
from ingestion_pipeline_tests.faults.outages import OTHERS
from ingestion_pipeline_tests.faults.room import Room


@pytest.mark.parametrize("cell", OTHERS, ids=lambda cell: cell.name)
def test_documents_are_complete_once_each(room: Room, cell: Cell) -> None:
    assert run(cell, room).verdict.problems() == []
