"""Faults at an exact place of a real process: right before or after the commit of a named write, or before it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Any

from ingestion_pipeline.local_stack.postgres_processes import find_postmaster
from ingestion_pipeline.local_stack.process_sessions import send
from ingestion_pipeline_tests.orchestration.faulty_ports import Around


class Moment(StrEnum):
    """When, of a write: before it begins; when all is written and nothing committed; after the commit."""

    BEGIN = "before"
    BEFORE_COMMIT = "before the commit of"
    AFTER_COMMIT = "after the commit of"


class Deed(StrEnum):
    """What happens there: the process is killed, or stands still, or PostgreSQL is killed."""

    DIE = "die"
    STOP = "stop"
    KILL_POSTGRES = "kill_postgres"


@dataclass(frozen=True)
class Strike:
    """One deed at the first call of `method`."""

    method: str
    moment: Moment
    deed: Deed


def kill_postgres(cluster: Path) -> None:
    """SIGKILL for every process of a server, the postmaster first, so that none has the time to end well."""
    postmaster = find_postmaster(cluster)
    if postmaster is not None:
        send(signal.SIGKILL, [postmaster.process, *postmaster.process.children()])


class StruckStore(Around):
    """A store, or a catalogue, with one method in whose first call something happens."""

    def __init__(self, real: Any, strike: Strike, cluster: Path) -> None:
        super().__init__(real)
        self._strike = strike
        self._cluster = cluster
        self._is_due = threading.Lock()  # released by nobody: the deed is done once
        self._reached = threading.local()
        database = real._database
        real_transaction = database.transaction

        @contextmanager
        def transaction(**options: Any) -> Iterator[Any]:
            with real_transaction(**options) as connection:
                yield connection
                if getattr(self._reached, "method", False):
                    self._strike_at(Moment.BEFORE_COMMIT)

        database.transaction = transaction

    def __getattr__(self, name: str) -> Any:
        work = super().__getattr__(name)
        if name != self._strike.method:
            return work

        def call(*arguments: Any, **options: Any) -> Any:
            self._strike_at(Moment.BEGIN)
            self._reached.method = True
            try:
                result = work(*arguments, **options)
            finally:
                self._reached.method = False
            self._strike_at(Moment.AFTER_COMMIT)
            return result

        return call

    def _strike_at(self, moment: Moment) -> None:
        if moment is not self._strike.moment or not self._is_due.acquire(blocking=False):
            return
        if self._strike.deed is Deed.KILL_POSTGRES:
            kill_postgres(self._cluster)
        else:
            os.kill(os.getpid(), signal.SIGKILL if self._strike.deed is Deed.DIE else signal.SIGSTOP)


def shift_clock(seconds: float) -> None:
    """Let this process believe that it is so much later: what the product asks of `time` and `datetime`.

    The kernel's clock is everybody's; what waits and leases go by, the monotonic clock and PostgreSQL's, stays.
    """
    now = time.time

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=seconds)

    time.time = lambda: now() + seconds
    for name, module in list(sys.modules.items()):
        if name.startswith("ingestion_pipeline.") and getattr(module, "datetime", None) is datetime:
            module.datetime = Shifted  # type: ignore[attr-defined]
