"""The measurements themselves, on tiny sizes: that they run and tell what happened. How fast it was is not asserted."""

import json
import subprocess
import sys
from pathlib import Path

from ingestion_pipeline.settings import PROJECT_ROOT

SUITE = [sys.executable, "-m", "ingestion_pipeline_tests.performance"]


def test_a_measurement_tells_what_was_embedded_beside_the_limit_and_writes_table_figures_and_plot(
    tmp_path: Path,
) -> None:
    arguments = ["--only", "changed", "--documents", "2", "1", "--out", str(tmp_path)]
    run = subprocess.run([*SUITE, *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    written = json.loads((tmp_path / "results.json").read_text())
    figures = {figure["what"]: figure for figure in written["figures"]}
    assert figures["chunks of the changed documents"]["value"] > 400, "one of the two is of 1 MB"
    assert 2 <= figures["embedded"]["value"] == figures["chunks whose text is new"]["value"] < 20
    assert figures["embedded"]["met"] is True
    assert 2 <= figures["embedded"]["against"] < 20, "the limit embeds what is new, and no more"
    assert figures["time"]["value"] > 0
    assert written["mode"] == "short"
    assert "| 2 of 3 documents changed | embedded " in run.stdout
    assert run.stdout.strip() in (tmp_path / "results.md").read_text()
    assert (tmp_path / "results.svg").read_text().startswith("<svg")
