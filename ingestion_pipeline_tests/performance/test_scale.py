"""The measurements of growing stores, on a small one: that they tell what they are to tell, not how fast it was."""

import subprocess
import sys

from ingestion_pipeline.settings import PROJECT_ROOT

SCALE = [sys.executable, "-m", "ingestion_pipeline_tests.performance.scale"]
SMALL = ["--only", "store", "search", "--documents", "600", "--vectors", "100", "--rounds", "1"]


def test_growing_stores_are_held_against_the_smallest_and_search_with_an_index_against_search_without() -> None:
    run = subprocess.run([*SCALE, *SMALL], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in run.stdout.splitlines() if "|" in line]
    rows = {(row[0], row[1]): row[2:] for row in lines}
    for work in ("claim 200 documents", "tick: upload_sensor, 200 uploads", "list the newest 50 that are complete"):
        value, *_, ratio, target, met = rows[work, "600 documents"]
        assert value.endswith(" ms")
        assert (ratio, target, met) == ("1", ">= 0.67", "yes")  # the smallest store is held against itself
    for precision in ("half precision", "full precision"):
        value, against, *_ = rows[precision, "search of 100 by the index"]
        assert value.endswith(" ms")
        assert against
        assert 0.9 <= float(rows[precision, "which share of the nearest it finds"][0]) <= 1.0
