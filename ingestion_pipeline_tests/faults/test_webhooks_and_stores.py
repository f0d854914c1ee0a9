"""Webhooks that are lost, doubled, late, early or forged; an object store that can't be reached."""

import pytest

from ingestion_pipeline_tests.faults.cell import Cell, run
from ingestion_pipeline_tests.faults.outages import STORES, WEBHOOKS
from ingestion_pipeline_tests.faults.room import Room


@pytest.mark.parametrize("cell", [*WEBHOOKS, *STORES], ids=lambda cell: cell.name)
def test_documents_get_on_without_what_was_away_or_lied(room: Room, cell: Cell) -> None:
    assert run(cell, room).verdict.problems() == []
