"""Vendors that refuse, fail, stall, cut off, answer nonsense or slowly, at each call of theirs."""

import pytest

from ingestion_pipeline_tests.faults.cell import Cell, run
from ingestion_pipeline_tests.faults.outages import REFUSALS, VENDORS
from ingestion_pipeline_tests.faults.room import Room


@pytest.mark.parametrize("cell", [*REFUSALS, *VENDORS], ids=lambda cell: cell.name)
def test_documents_wait_for_an_ill_vendor_and_fail_only_where_it_refuses_them(room: Room, cell: Cell) -> None:
    assert run(cell, room).verdict.problems() == []
