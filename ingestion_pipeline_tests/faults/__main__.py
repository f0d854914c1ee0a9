"""`python -m ingestion_pipeline_tests.faults`: run the cells of the matrix some rounds and print the table.

With --write it goes into docs/faults.md once each cell has had a round, in the place of the one that is there. The
exit status is 0 only if nothing was wrong in any round.
"""

import argparse
import queue
import sys
import threading

import click

from ingestion_pipeline_tests.faults import matrix
from ingestion_pipeline_tests.faults.cell import Cell, Outcome, run
from ingestion_pipeline_tests.faults.room import open_room


def make_argument_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser("python -m ingestion_pipeline_tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rooms", type=int, default=1, help="cells at the same time, each in a room of its own")
    parser.add_argument("--only", default="", metavar="TEXT", help="cells whose place or fault has this text")
    parser.add_argument("--write", action="store_true", help="write the table into docs/faults.md")
    return parser


def main() -> int:
    """Run what was asked for."""
    options = make_argument_parser().parse_args()
    cells = [cell for cell in matrix.CELLS if options.only in cell.name]
    waiting: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    for _ in range(options.rounds):
        for cell in cells:
            waiting.put(cell)
    outcomes: dict[str, list[Outcome]] = {}
    wrong: list[str] = []
    writing = threading.Lock()

    def work() -> None:
        with open_room() as room:
            while True:
                try:
                    cell = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    outcome = run(cell, room)
                except Exception as error:  # noqa: BLE001  the other cells are worth their time
                    wrong.append(f"{cell.name}: {type(error).__name__}: {error}")
                    continue
                outcomes.setdefault(cell.name, []).append(outcome)
                wrong.extend(f"{cell.name}: {problem}" for problem in outcome.verdict.problems())
                if options.write and len(outcomes) == len(matrix.CELLS):
                    with writing:
                        matrix.write(matrix.DOCUMENT, matrix.table(outcomes))
                click.echo(f"{outcome.recovery_seconds:5.1f} s  {cell.name}", err=True)

    rooms = [threading.Thread(target=work, name=f"room {number}") for number in range(options.rooms)]
    for thread in rooms:
        thread.start()
    for thread in rooms:
        thread.join()
    found = matrix.table(outcomes)
    click.echo(found)
    for line in wrong:
        click.echo(f"WRONG: {line}", err=True)
    return 1 if wrong or not all(len(outcomes.get(cell.name, [])) == options.rounds for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main())
