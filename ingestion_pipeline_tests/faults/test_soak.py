"""A short soak, as `make soak` runs it: faults happen, nothing is wrong, and what is wrong is told."""

import random
import re
import subprocess
import sys

import pytest

from ingestion_pipeline.settings import PROJECT_ROOT
from ingestion_pipeline_tests.faults import outages
from ingestion_pipeline_tests.faults.room import Room
from ingestion_pipeline_tests.faults.soak import Soak
from ingestion_pipeline_tests.running_api import wait_until

COMMAND = [sys.executable, "-m", "ingestion_pipeline_tests.faults.soak"]


def test_documents_outlast_some_random_faults() -> None:
    arguments = ["--minutes", "0.4", "--seed", "3"]
    run = subprocess.run([*COMMAND, *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr[-5000:]
    counted = re.match(r"(\d+) documents, (\d+) times faults, ", run.stdout)
    assert counted, run.stdout
    assert int(counted[1]) > 10
    assert int(counted[2]) > 1
    assert "lost 0, stuck 0, wrong end 0, doubled 0" in run.stdout
    assert run.stdout.endswith("nothing is wrong\n")


def test_the_soak_notices_what_was_lost_and_who_ended_by_itself(room: Room) -> None:
    with room.scene() as scene:
        soak = Soak(scene, random.Random(0), outages.store_behind_a_gate(scene), rate=1.0)
        scene.start_workers()
        scene.upload(["# One\n\nThe only text.", "# Two\n\nAnother text."])
        soak.see_it_recover("nothing")
        assert soak.problems == []
        scene.workers[0].kill()
        soak.see_it_recover("a death")
        assert [problem for problem in soak.problems if "ended by itself" in problem]
        scene.forget(min(scene.uploaded))
        soak.see_it_recover("a loss", seconds=1.0)
        assert [problem for problem in soak.problems if "stuck or lost" in problem]


def test_the_soak_notices_a_client_that_can_upload_no_more(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    with room.scene() as scene:
        soak = Soak(scene, random.Random(0), outages.store_behind_a_gate(scene), rate=100.0)
        monkeypatch.setattr(scene, "upload_one", lambda _: {}["nobody"])
        with soak._uploads():
            wait_until(lambda: bool(soak.problems), "the soak has noticed", 20)
        assert soak.problems == ["an upload: KeyError: 'nobody'"]
