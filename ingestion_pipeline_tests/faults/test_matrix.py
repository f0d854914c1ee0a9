"""The matrix as a whole: what is written of it, and the command that writes it."""

from pathlib import Path

import pytest

from ingestion_pipeline_tests.faults import kills, matrix, outages
from ingestion_pipeline_tests.faults.cell import Cell, Outcome
from ingestion_pipeline_tests.faults.verdict import Verdict

FINE = Verdict(0, 0, 0, 0, 0, 0, 0, {}, ())


def test_each_cell_has_a_name_of_its_own_and_a_place() -> None:
    assert len({cell.name for cell in matrix.CELLS}) == len(matrix.CELLS)
    assert {cell.place for cell in matrix.CELLS} == set(matrix.PLACES)


def test_no_group_of_cells_is_left_out() -> None:
    groups = [
        group
        for module in (kills, outages)
        for group in vars(module).values()
        if isinstance(group, list) and group and isinstance(group[0], Cell)
    ]
    assert {cell.name for group in groups for cell in group} == {cell.name for cell in matrix.CELLS}


def test_the_table_has_a_row_for_each_cell_with_nothing_wrong() -> None:
    rows = matrix.rows_of(matrix.DOCUMENT)
    assert sorted(f"{place}: {fault}" for place, fault, *_ in rows) == sorted(cell.name for cell in matrix.CELLS)
    for place, fault, fates, doubled, paid, parse_jobs, *seconds in rows:
        found = (fates, doubled, paid.split(", ")[1], parse_jobs)
        assert found == ("0, 0, 0", "0", "0", "0"), (place, fault)
        median, worst = (float(value.removesuffix(" s")) for value in seconds)
        assert 0 < median <= worst < 90


def test_of_several_rounds_the_table_tells_the_median_and_the_worst(tmp_path: Path) -> None:
    document = tmp_path / "faults.md"
    document.write_text(f"before\n{matrix.BEGIN}old\n{matrix.END}\nafter\n")
    cell = kills.WORKERS_KILLED[0]
    bad = Verdict(1, 2, 3, 4, 9, 7, 5, {}, ())
    outcomes = [Outcome(1.0, FINE), Outcome(8.0, bad), Outcome(2.0, FINE)]
    matrix.write(document, matrix.table({cell.name: outcomes}))
    assert matrix.rows_of(document) == [[cell.place, cell.fault, "1, 2, 3", "4", "7, 2", "5", "2.0 s", "8.0 s"]]
    assert document.read_text().startswith("before\n")
    assert document.read_text().endswith("\nafter\n")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lost": 1}, "documents lost: 1"),
        ({"paid_twice": 3, "in_flight": 2}, "texts paid for twice that were not in flight: 1"),
        ({"paid_twice": 2, "in_flight": 2}, None),
        ({"findings": {"raw_missing": 2}}, "found by the audit: raw_missing: 2"),
    ],
)
def test_a_verdict_says_what_is_wrong(changes: dict[str, object], told: str | None) -> None:
    verdict = Verdict(**{**{name: getattr(FINE, name) for name in Verdict.__dataclass_fields__}, **changes})
    assert verdict.problems() == ([told] if told else [])
