"""`make soak`: faults of all kinds at random, one or two at a time, while clients upload; then the matrix's checker.

`--seed` decides which faults happen where, in which order; the moments are those of the machine. It looks as it goes:
what clients were told is taken is there, what was uploaded before the end of a fault is settled in time, no process
ended by itself. The exit status is 0 only if nothing was wrong.
"""

import argparse
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import click
import psycopg2

from ingestion_pipeline.audit.findings import Code
from ingestion_pipeline.domain import SETTLED
from ingestion_pipeline_tests.faults import outages
from ingestion_pipeline_tests.faults.gate import Gate
from ingestion_pipeline_tests.faults.kills import COMMITS, SUBMITTED_AT_ONCE, WORKER_WRITES
from ingestion_pipeline_tests.faults.processes import Forked
from ingestion_pipeline_tests.faults.room import WORKERS, Scene, open_room, texts
from ingestion_pipeline_tests.faults.strikes import Deed, Moment, Strike, kill_postgres
from ingestion_pipeline_tests.faults.verdict import Explained, Verdict, judge
from ingestion_pipeline_tests.faults.work import CLAIM_SECONDS
from ingestion_pipeline_tests.orchestration.pipeline_under_test import document_text
from ingestion_pipeline_tests.running_api import wait_until

RECOVERY_SECONDS = 90.0
PLACE_SECONDS = 20.0  # how long a worker is waited for at the place where something happens to it
LONGEST_OUTAGE_SECONDS = 4.0
SENT_AGAIN = 0.1  # of the uploads
FIRST_DOCUMENTS = 20
LATER_CODES = frozenset({Code.BATCH_UNFINISHED, Code.OBJECT_ORPHANED})


@dataclass
class Soak:
    """A scene under random faults. `problems` is what was seen on the way, `recoveries` the kinds of faults and the
    seconds after them."""

    scene: Scene
    random: random.Random
    gate: Gate
    rate: float
    problems: list[str] = field(default_factory=list)
    recoveries: list[tuple[tuple[str, ...], float]] = field(default_factory=list)
    stands: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        """The kinds, in an order of their own, so that the seed decides alone."""
        return {
            "worker killed": self._worker_killed,
            "worker killed at a write": self._worker_killed_at_a_write,
            "worker stands still": self._worker_stands,
            "worker with a wrong clock": self._wrong_clock,
            "API killed": self._api_killed,
            "PostgreSQL killed": self._postgres_killed,
            "no connections": self._no_connections,
            "vendor ill": self._vendor_ill,
            "webhooks ill": self._webhooks_ill,
            "store away": self._store_away,
        }

    def run(self, seconds: float) -> None:
        """Let it rain for so long, then let everything settle."""
        deadline = time.monotonic() + seconds
        self.scene.upload(texts("before the soak", FIRST_DOCUMENTS))
        self.scene.start_workers()
        with self._uploads():
            while time.monotonic() < deadline and not self.problems:
                names = self.random.sample(list(self.faults), 2 if self.random.random() < 0.25 else 1)
                for name in names:
                    self.faults[name]()
                self.see_it_recover(*names)
        self.scene.end_fault()
        self.scene.wait_until_settled()

    def verdict(self) -> Verdict:
        """What is true at the end."""
        in_flight = self.stands * (SUBMITTED_AT_ONCE - 1)
        return judge(self.scene, Explained(findings=LATER_CODES, spoiled=True, parse_jobs=in_flight))

    # clients

    @contextmanager
    def _uploads(self) -> Iterator[None]:
        """Clients upload in the block, some documents more than once; what goes wrong with them is a problem."""

        def upload() -> None:
            chooser, number = random.Random(self.random.random()), 0
            while not self._ended.wait(1 / self.rate):
                if chooser.random() > SENT_AGAIN:
                    number += 1
                text = document_text(f"soak {number}", paragraphs=60)
                try:
                    document_id, _ = self.scene.upload_one(text)
                except Exception as error:  # noqa: BLE001 - without clients a soak proves nothing
                    self.problems.append(f"an upload: {type(error).__name__}: {error}")
                    return
                self.scene.uploaded[document_id] = ""

        client = threading.Thread(target=upload, name="client")
        client.start()
        try:
            yield
        finally:
            self._ended.set()
            client.join()

    # what happens

    def _replace(self, worker: Forked, **options: Any) -> None:
        """Another worker in the place of one that was killed or is killed now."""
        worker.kill()
        self.scene.workers.remove(worker)
        self.scene.start_worker(**options)

    def _at_a_place(self, deed: Deed, moments: tuple[Moment, ...], is_there: Callable[[Forked], bool]) -> Forked | None:
        """One of the workers is replaced by one that something happens to; None if it never came to its place."""
        strike = Strike(self.random.choice(list(WORKER_WRITES.values())), self.random.choice(moments), deed)
        self._replace(self.scene.workers[0], strike=strike)
        struck = self.scene.workers[-1]
        deadline = time.monotonic() + PLACE_SECONDS
        while not is_there(struck) and time.monotonic() < deadline:
            self._ended.wait(0.02)
        return struck if is_there(struck) else None

    def _worker_killed(self) -> None:
        self._replace(self.random.choice(self.scene.workers))

    def _worker_killed_at_a_write(self) -> None:
        self._at_a_place(Deed.DIE, COMMITS, lambda worker: not worker.is_alive())
        self._replace(self.scene.workers[-1])

    def _worker_stands(self) -> None:
        self.stands += 1
        if self._at_a_place(Deed.STOP, (Moment.BEGIN, Moment.BEFORE_COMMIT), Forked.is_standing) is not None:
            self._wait(2 * CLAIM_SECONDS)
            self.scene.let_go_on(self.scene.workers[-1])
        self._replace(self.scene.workers[-1])

    def _wrong_clock(self) -> None:
        self._replace(self.scene.workers[0], clock_seconds=self.random.choice((-60.0, 60.0)))

    def _api_killed(self) -> None:
        self.scene.restart_api()

    def _postgres_killed(self) -> None:
        kill_postgres(self.scene.room.cluster)
        self.scene.restart_postgres()

    def _no_connections(self) -> None:
        with outages.no_connections(self.scene):
            self._wait_some()

    def _vendor_ill(self) -> None:
        service, operation = self.random.choice(list(outages.VENDOR_CALLS.values()))
        fault = self.random.choice(list(outages.FAULTS.values()))
        self.scene.mocks.script(service, operation=operation, times=None, **fault)
        self._wait_some()
        self.scene.mocks.control(service, "DELETE", "faults")

    def _webhooks_ill(self) -> None:
        self.scene.mocks.script("llamacloud", times=None, **self.random.choice(list(outages.WEBHOOK_FAULTS.values())))
        self._wait_some()
        self.scene.mocks.control("llamacloud", "DELETE", "faults")

    def _store_away(self) -> None:
        self.gate.close()
        self._wait_some()
        self.gate.open()

    def _wait_some(self) -> None:
        self._wait(self.random.uniform(0.5, LONGEST_OUTAGE_SECONDS))

    def _wait(self, seconds: float) -> None:
        """An outage lasts so long."""
        self._ended.wait(seconds)

    # what is seen on the way

    def see_it_recover(self, *names: str, seconds: float = RECOVERY_SECONDS) -> None:
        """Wait until what was taken before now is settled; note how long that took, and what is wrong."""
        self.scene.end_fault()
        name = " and ".join(names)
        before = set(self.scene.uploaded)
        settled = {state.value for state in SETTLED}

        def left() -> set[UUID]:
            try:
                rows = self.scene.rows("select document_id, state, claimed_by from upload_pipeline.upload_jobs")
            except psycopg2.OperationalError:  # the server is killed at this moment, or just starting
                return before
            done = {UUID(str(document_id)) for document_id, state, claim in rows if state in settled and claim is None}
            return before - done

        try:
            wait_until(lambda: not left(), "everything is settled", seconds)
        except AssertionError:
            self.problems.append(f"after {name}: stuck or lost: {sorted(map(str, left()))[:5]}, {self.scene.states()}")
            return
        self.recoveries.append((names, time.monotonic() - self.scene.fault_ended))
        dead = [worker.process_id for worker in self.scene.workers if not worker.is_alive()]
        if dead or len(self.scene.workers) != WORKERS or self.scene.api is None or not self.scene.api.is_alive():
            self.problems.append(f"after {name}: a process ended by itself: {dead}")
        click.echo(f"{self.recoveries[-1][1]:5.1f} s  {name}, {len(before)} documents", err=True)


def summary(soak: Soak, verdict: Verdict, seconds: float) -> str:
    """What happened, by kind of fault, and what it led to."""
    everything = [seconds for _, seconds in soak.recoveries]
    by_kind = {kind: [seconds for kinds, seconds in soak.recoveries if kind in kinds] for kind in soak.faults}
    lines = [
        f"{len(soak.scene.uploaded)} documents, {len(everything)} times faults, {seconds:.0f} s",
        *(
            f"  {name}: {len(found)}, recovery median {statistics.median(found):.1f} s, worst {max(found):.1f} s"
            for name, found in by_kind.items()
            if found
        ),
        f"recovery: median {statistics.median(everything or [0]):.1f} s, worst {max(everything, default=0):.1f} s",
        f"lost {verdict.lost}, stuck {verdict.stuck}, wrong end {verdict.wrong_fate}, doubled {verdict.uneven}, "
        f"paid twice {verdict.paid_twice} (in flight {verdict.in_flight}), parse jobs too many "
        f"{verdict.parse_jobs_surplus}",
    ]
    return "\n".join(lines)


def make_argument_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser("python -m ingestion_pipeline_tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=4.0, help="uploads a second")
    return parser


def main() -> int:
    """Soak, and say what came of it."""
    options = make_argument_parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # by an exception, so that all processes are ended
    started = time.monotonic()
    with open_room() as room, room.scene() as scene:
        soak = Soak(scene, random.Random(options.seed), outages.store_behind_a_gate(scene), options.rate)
        try:
            soak.run(options.minutes * 60)
        except AssertionError as error:
            soak.problems.append(str(error))
        verdict = soak.verdict()
        problems = [*soak.problems, *verdict.problems()]
        click.echo(summary(soak, verdict, time.monotonic() - started))
    for problem in problems:
        click.echo(f"WRONG: {problem}")
    click.echo("something is wrong" if problems else "nothing is wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
