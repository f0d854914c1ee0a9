"""All cells, and the table of docs/faults.md that is made of what came of them."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from ingestion_pipeline.settings import PROJECT_ROOT
from ingestion_pipeline_tests.faults import kills, outages
from ingestion_pipeline_tests.faults.cell import Cell, Outcome

DOCUMENT = PROJECT_ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- the table begins -->\n", "<!-- the table ends -->"
HEAD = (
    "| Where | Fault | Lost, stuck, wrong end | Chunks doubled | Paid twice: in flight, beyond | Parse jobs too many "
    "| Recovery: median | worst |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n"
)
CELLS: tuple[Cell, ...] = (
    *outages.OTHERS,
    *kills.APIS_KILLED,
    *kills.WORKERS_KILLED,
    *kills.WORKERS_STANDING,
    *kills.POSTGRES_KILLED,
    *outages.WEBHOOKS,
    *outages.STORES,
    *outages.REFUSALS,
    *outages.VENDORS,
)
PLACES = ("all", *kills.API_WRITES, *kills.WORKER_WRITES)


def row(cell: Cell, outcomes: Sequence[Outcome]) -> str:
    """A line of the table; of several rounds each number of what is wrong is the worst."""
    verdicts = [outcome.verdict for outcome in outcomes]
    seconds = [outcome.recovery_seconds for outcome in outcomes]
    wrong = [max(getattr(verdict, name) for verdict in verdicts) for name in ("lost", "stuck", "wrong_fate")]
    in_flight = max(min(verdict.paid_twice, verdict.in_flight) for verdict in verdicts)
    beyond = max(max(0, verdict.paid_twice - verdict.in_flight) for verdict in verdicts)
    columns = [
        cell.place,
        cell.fault,
        ", ".join(map(str, wrong)),
        str(max(verdict.uneven for verdict in verdicts)),
        f"{in_flight}, {beyond}",
        str(max(verdict.parse_jobs_surplus for verdict in verdicts)),
        f"{statistics.median(seconds):.1f} s",
        f"{max(seconds):.1f} s",
    ]
    return f"| {' | '.join(columns)} |\n"


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """All cells that were run, by place."""
    rounds = sorted({len(found) for found in outcomes.values()})
    cells = sorted((cell for cell in CELLS if cell.name in outcomes), key=lambda cell: PLACES.index(cell.place))
    told = f"{len(cells)} cells, medians and worst of {' to '.join(map(str, rounds))} rounds.\n\n"
    return told + HEAD + "".join(row(cell, outcomes[cell.name]) for cell in cells)


def write(document: Path, written: str) -> None:
    """Put a table into a document, in the place of the one that is there."""
    text = document.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    document.write_text(f"{before}{BEGIN}{written}{END}{after}")


def rows_of(document: Path) -> list[list[str]]:
    """The cells' rows of a document, column by column."""
    part = document.read_text().split(BEGIN)[1].split(END)[0]
    lines = re.findall(r"^\| (.*) \|$", part, flags=re.MULTILINE)
    return [line.split(" | ") for line in lines][2:]
