"""How runs end when they are told to: by SIGTERM, with their code server, or from the Dagster UI."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ending = threading.Event()


@contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """Set by a signal in the block, in which Dagster would raise wherever the process is, also while it cleans up."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    former = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def stop_runs_with_this_process() -> None:
    """From the first signal on, `is_ending` says so, and the runs of this process are told to stop.

    For Dagster's code server, which takes SIGTERM for SIGINT and ends once its runs have.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        _ending.set()
        for run in multiprocessing.active_children():
            run.terminate()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def is_ending() -> bool:
    """Whether this code server was told to stop: what it claimed now would never get a run."""
    return _ending.is_set()


@contextmanager
def ignoring_sigterm() -> Iterator[None]:
    """What is started in the block does not end by SIGTERM, unless it decides to."""
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
