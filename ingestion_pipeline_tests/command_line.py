"""The installed executable `ingest` as a process, for tests."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

INGEST = Path(sys.executable).with_name("ingest")
SECONDS = 60


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment without its own settings of the project, and with those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INGEST_", "DAGSTER_"))}
    return {**kept, **settings}


def start_ingest(
    *arguments: str | Path, settings: Mapping[str, str], directory: Path, **options: int
) -> subprocess.Popen[str]:
    """Start `ingest` in `directory`, so that no .env of somebody else counts."""
    assert INGEST.exists(), f"{INGEST} is missing: install the project into the environment of the tests"
    return subprocess.Popen(
        [INGEST, *arguments],
        env=clean_environment(**settings),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=options.get("stdout", subprocess.PIPE),
        stderr=options.get("stderr", subprocess.PIPE),
        text=True,
    )


def run_ingest(
    *arguments: str | Path, settings: Mapping[str, str], directory: Path
) -> subprocess.CompletedProcess[str]:
    """Run `ingest` to its end; output and errors are captured apart."""
    with start_ingest(*arguments, settings=settings, directory=directory) as process:
        try:
            output, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess([str(argument) for argument in arguments], process.returncode, output, errors)
