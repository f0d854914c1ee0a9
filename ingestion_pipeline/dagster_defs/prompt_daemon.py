"""Dagster's daemon, looking at the sensors and the queue of runs twice a second, and at backfills every two.

Dagster looks at sensors every five seconds, at the queue every second at most, and at backfills every thirty.
The sensors here wait for work by themselves, so a round costs next to nothing.
"""

from pathlib import Path

from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._daemon import controller, sensor
from dagster._daemon.cli import run_command

ROUND_SECONDS = 0.5
BACKFILL_SECONDS = 2  # an operator is looking at it


def run_daemon(workspace: Path) -> None:
    """Run sensors, queue, backfills and monitoring until a signal ends it."""
    sensor.MIN_INTERVAL_LOOP_TIME = ROUND_SECONDS  # type: ignore[assignment]
    QueuedRunCoordinator.dequeue_interval_seconds = property(lambda _: ROUND_SECONDS)  # type: ignore[assignment,method-assign]
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_SECONDS
    run_command.main(["--workspace", str(workspace)], standalone_mode=False)
