"""The processes that faults happen to, forked from one that has imported everything: a new worker costs no imports.

`python -m ingestion_pipeline_tests.faults.processes` is that one. It reads a line of JSON for each process to fork and
answers with its id; when its input ends it kills all of them and ends.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from ingestion_pipeline.local_stack.ports import usable_port
from ingestion_pipeline.settings import PROJECT_ROOT
from ingestion_pipeline_tests.faults.strikes import Strike
from ingestion_pipeline_tests.running_api import wait_until


def lasting_port() -> int:
    """A port that may be given up and taken again: none of those that the kernel gives to connections meanwhile."""
    return usable_port("127.0.0.1", random.randrange(12_000, 32_000))


class Forked:
    """A process of the nursery."""

    def __init__(self, process_id: int) -> None:
        self.process_id = process_id
        self._process = psutil.Process(process_id)

    def is_alive(self) -> bool:
        """Whether any of its threads is left: until the last one is gone, it has its ports and files."""
        if self._status() != psutil.STATUS_ZOMBIE:
            return self._status() is not None
        with suppress(FileNotFoundError):
            return len(list(Path(f"/proc/{self.process_id}/task").iterdir())) > 1
        return False

    def is_standing(self) -> bool:
        """Whether SIGSTOP holds it."""
        return self._status() == psutil.STATUS_STOPPED

    def _status(self) -> str | None:
        """As the kernel says; None once the process is gone."""
        with suppress(psutil.NoSuchProcess):
            return str(self._process.status()) if self._process.is_running() else None
        return None

    def send(self, number: int) -> None:
        """Send it a signal, if it lives."""
        with suppress(psutil.NoSuchProcess):
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; returns once it is gone."""
        self.send(signal.SIGKILL)
        wait_until(lambda: not self.is_alive(), "a killed process is gone")


class Nursery:
    """Forks processes by role: `worker` and `api`, see work.py. As a context manager it ends them all."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._lock = threading.Lock()
        self._ask()

    def fork(self, role: str, settings: dict[str, Any], strike: Strike | None = None, **options: Any) -> Forked:
        """A process that works until it is killed."""
        asked = {"role": role, "settings": settings, "strike": strike and asdict(strike), **options}
        with self._lock:
            assert self._process.stdin
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            return Forked(int(self._ask()))

    def _ask(self) -> str:
        assert self._process.stdout
        answer = self._process.stdout.readline()
        assert answer, f"the nursery of the processes ended: {Path(self._log.name).read_text()[-2000:]}"
        return answer

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # its input ends, and with it all that it forked
        self._log.close()


def main() -> None:
    from ingestion_pipeline_tests.faults import work  # everything, once

    work.warm_up()

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    forked: set[int] = set()
    print("ready", flush=True)  # noqa: T201  the answer
    for line in sys.stdin:
        asked = json.loads(line)
        forked = set(filter(_is_left, forked))
        process_id = os.fork()
        if process_id == 0:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what it logs is no answer
            try:
                work.ROLES[asked.pop("role")](**asked)
            except BaseException:  # noqa: BLE001  the parent must not go on in here
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        forked.add(process_id)
        print(process_id, flush=True)  # noqa: T201
    for process_id in filter(_is_left, forked):
        os.kill(process_id, signal.SIGKILL)
        os.waitpid(process_id, 0)


def _is_left(process_id: int) -> bool:
    """Whether a child has not ended; until it was waited for here, nobody else gets its process id."""
    return os.waitpid(process_id, os.WNOHANG) == (0, 0)


if __name__ == "__main__":
    main()
