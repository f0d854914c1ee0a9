"""Each cell of the fault matrix: a fault at a place, with 50 documents in flight."""

import pytest

from ingestion_pipeline_tests.faults import matrix
from ingestion_pipeline_tests.faults.cell import Cell, run
from ingestion_pipeline_tests.faults.room import Room


@pytest.mark.parametrize("cell", matrix.CELLS, ids=lambda cell: cell.name)
def test_every_document_comes_to_its_own_end_once_and_is_paid_for_once(room: Room, cell: Cell) -> None:
    assert run(cell, room).verdict.problems() == []
