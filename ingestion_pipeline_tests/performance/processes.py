"""CPU and memory of trees of processes, as the kernel counts them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

SAMPLE_SECONDS = 0.05


def cpu_seconds(root: int) -> float:
    """CPU that a process, its descendants, and those of them that have ended and were waited for have used so far."""
    return sum(cpu_by_process(root).values())


def cpu_by_process(root: int) -> dict[int, float]:
    """The same for each live process of the tree: its own CPU and that of its children that have ended."""
    used: dict[int, float] = {}
    with suppress(psutil.NoSuchProcess):
        tree = psutil.Process(root)
        for process in (tree, *tree.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used[process.pid] = times.user + times.system + times.children_user + times.children_system
    return used


class PeakMemory:
    """The largest resident set of one process that was seen, in bytes."""

    def __init__(self) -> None:
        self.peak_bytes = 0

    @contextmanager
    def watching(self, process_id: int) -> Iterator["PeakMemory"]:
        """Look at the process, again and again, until the end of the block."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(psutil.Process(process_id), over), name="memory")
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()

    def _watch(self, process: psutil.Process, over: threading.Event) -> None:
        with suppress(psutil.NoSuchProcess):
            while not over.wait(SAMPLE_SECONDS):
                self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
