"""Which files `ingest upload` takes from what it is given."""

import os
from pathlib import Path

import pytest

from ingestion_pipeline.cli.client import ApiUnavailableError, with_retries
from ingestion_pipeline.cli.upload import collect_files, write_report
from ingestion_pipeline.errors import ConfigurationError


def write(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)


def test_folders_are_walked_in_sorted_order_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "b.txt", "a.txt", "sub/d.txt", "sub/c.txt", "also/e.txt", ".hidden", ".git/config", "sub/.DS_Store")
    found = [str(file.relative_to(tmp_path)) for file in collect_files([tmp_path])]
    assert found == ["a.txt", "b.txt", "also/e.txt", "sub/c.txt", "sub/d.txt"]


def test_a_hidden_file_that_is_named_is_taken(tmp_path: Path) -> None:
    write(tmp_path, ".notes.txt")
    assert collect_files([tmp_path / ".notes.txt"]) == [tmp_path / ".notes.txt"]


def test_a_file_that_is_named_twice_is_taken_once(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.txt")
    assert collect_files([tmp_path / "b.txt", tmp_path]) == [tmp_path / "b.txt", tmp_path / "a.txt"]


def test_what_is_no_regular_file_is_left_out_of_folders(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert collect_files([tmp_path]) == [tmp_path / "a.txt"]


class Flaky:
    """Fails a number of times, then answers."""

    def __init__(self, *failures: ApiUnavailableError) -> None:
        self._failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self._failures:
            raise self._failures.pop(0)
        return "answer"


def test_retries_wait_longer_each_time_or_as_long_as_the_api_asks_but_never_beyond_half_a_minute() -> None:
    call = Flaky(
        ApiUnavailableError("gone"),
        ApiUnavailableError("gone"),
        ApiUnavailableError("busy", retry_after_seconds=7.0),
        ApiUnavailableError("busy", retry_after_seconds=3600.0),
    )
    pauses: list[float] = []
    assert with_retries(call, pause=pauses.append) == "answer"
    assert pauses == [0.5, 1.0, 7.0, 30.0]


def test_retries_end_after_the_given_number_of_attempts() -> None:
    call = Flaky(*(ApiUnavailableError("gone") for _ in range(10)))
    with pytest.raises(ApiUnavailableError, match="gone"):
        with_retries(call, attempts=3, pause=lambda _seconds: None)
    assert call.calls == 3


def test_a_device_is_no_file() -> None:
    with pytest.raises(ConfigurationError, match="/dev/zero is neither a file nor a folder"):
        collect_files([Path("/dev/zero")])


def test_a_report_that_can_not_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"can't be written: .*directory"):
        write_report([], tmp_path / "nowhere" / "report.csv")
