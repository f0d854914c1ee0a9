"""A cell of the fault matrix: one fault at one place, and what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ingestion_pipeline_tests.faults.room import DOCUMENTS, Room, Scene, texts
from ingestion_pipeline_tests.faults.verdict import Explained, Verdict, judge


@dataclass(frozen=True)
class Cell:
    """`happens` has the documents uploaded, lets the fault happen and end, and says what it may lead to."""

    place: str
    fault: str
    happens: Callable[[Scene, Sequence[str]], Explained]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.place}: {self.fault}"


@dataclass(frozen=True)
class Outcome:
    """From the end of the fault to where all documents were settled, in seconds; and what was found then."""

    recovery_seconds: float
    verdict: Verdict


def run(cell: Cell, room: Room) -> Outcome:
    """Let it happen, wait until nothing is left to be done, and look."""
    with room.scene(**cell.settings) as scene:
        explained = cell.happens(scene, texts(cell.name, DOCUMENTS))
        recovery_seconds = scene.wait_until_settled()
        for happens_later in scene.afterwards:
            happens_later()
        scene.wait_until_settled()
        return Outcome(recovery_seconds, judge(scene, explained))
