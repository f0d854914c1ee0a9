"""What a run prints, kept in files for Dagster's UI and printed where the code server prints.

Dagster's own manager has a `tail` and a Python interpreter follow each file, which takes a run longer than a small
batch of documents, and ends them without asking whether they have shown the last lines.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import UnsupportedOperation
from pathlib import Path
from typing import Any, TextIO

from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._serdes import ConfigurableClassData

# Without ears for the signals that end a run: it ends when nobody writes to it any more, however the run ended.
TEE = ("sh", "-c", 'trap "" HUP INT TERM; exec tee -a -- "$0"')
END_SECONDS = 5.0  # for the last lines; longer only if something that the run started still prints


class TeeComputeLogManager(LocalComputeLogManager):
    """dagster.LocalComputeLogManager with a `tee` for each stream; files and their names are the same."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "TeeComputeLogManager":
        """What dagster.yaml makes."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        """Keep what is printed in the block."""
        with ExitStack() as stack:
            for stream, kind in ((sys.stdout, ComputeIOType.STDOUT), (sys.stderr, ComputeIOType.STDERR)):
                path = Path(self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind]))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                stack.enter_context(_kept(stream, path))
            yield CapturedLogContext(log_key)
        Path(self.complete_artifact_path(log_key)).touch()  # type: ignore[no-untyped-call]


@contextmanager
def _kept(stream: TextIO, path: Path) -> Iterator[None]:
    """What is written to the stream's file descriptor, by whatever code, also goes to the end of a file."""
    try:
        descriptor = stream.fileno()
    except UnsupportedOperation:
        yield
        return
    stream.flush()
    before = os.dup(descriptor)
    tee = subprocess.Popen([*TEE, str(path)], stdin=subprocess.PIPE, stdout=before)
    assert tee.stdin is not None
    os.dup2(tee.stdin.fileno(), descriptor)
    tee.stdin.close()
    try:
        yield
    finally:
        stream.flush()
        os.dup2(before, descriptor)
        os.close(before)
        with suppress(subprocess.TimeoutExpired):
            tee.wait(END_SECONDS)
