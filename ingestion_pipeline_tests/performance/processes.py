"""CPU and memory of trees of processes, as the kernel counts them."""

import re
from contextlib import suppress
from pathlib import Path

import psutil


def cpu_seconds(root: int) -> float:
    """CPU that a process, its descendants, and those of them that have ended and were waited for have used so far."""
    used = 0.0
    with suppress(psutil.NoSuchProcess):
        tree = psutil.Process(root)
        for process in (tree, *tree.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
    return used


def peak_bytes() -> int:
    """The largest resident set of this process since it began. getrusage would count what its parent had."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024
