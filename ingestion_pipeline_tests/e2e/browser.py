"""The Dagster UI in a headless Chromium: what an operator sees there, and clicks.

Chromium is the one that `make test` installs into .venv/chromium, or INGEST_TEST_CHROMIUM. Screenshots stay in the
folder INGEST_TEST_ARTIFACTS, if it is set.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright
from running_stack import wait_for

INSTALLED = Path(sys.prefix) / "chromium"
PATIENCE_SECONDS = 60
ASSETS = 5
STATUSES = ("Failed", "Materialized", "Materializing", "Missing")


class DagsterUi:
    """One tab of the browser, at the UI of `address`; screenshots go to `folder`."""

    def __init__(self, page: Page, address: str, folder: Path) -> None:
        self._page = page
        self._address = address
        self._folder = folder

    def look_at_lineage(self, screenshot: str) -> list[str]:
        """All assets with their counts; what it says of the checks of each, as "3 / 3 Passed"."""
        self._page.goto(f"{self._address}/locations/ingestion_pipeline/asset-groups/ingestion")
        expect(self._page.get_by_text(re.compile("% filled")).first).to_be_visible()
        checks = self._page.get_by_text(re.compile(r"^\d+ / \d+ Passed$"))
        wait_for(lambda: checks.count() == ASSETS, "the checks of all assets", PATIENCE_SECONDS)
        self._shoot(screenshot)
        return checks.all_inner_texts()

    def look_at_partitions(self, asset: str, screenshot: str) -> dict[str, int]:
        """How many partitions of an asset the UI shows in each status."""
        self._page.goto(f"{self._address}/assets/{asset}?view=partitions")
        shown = {status: self._page.get_by_text(re.compile(rf"^{status} \(\d+\)$")) for status in STATUSES}
        wait_for(lambda: any(_number(text) for text in shown.values()), f"partitions of {asset}", PATIENCE_SECONDS)
        self._shoot(screenshot)
        return {status: _number(text) for status, text in shown.items()}

    def look_at_failed(self, asset: str, screenshot: str) -> int:
        """The failed partitions of an asset, by unticking the others; how many the UI lists then."""
        self._page.goto(f"{self._address}/assets/{asset}?view=partitions")
        self._page.get_by_text(re.compile(r"^Materialized \(\d+\)$")).click()
        self._page.get_by_text(re.compile(r"^Missing \(\d+\)$")).click()
        failed = self._page.get_by_text(re.compile(r"^Failed \(\d+\)$"))
        listed = self._page.get_by_text(re.compile(r"^\d+ Partitions Selected$"))
        wait_for(lambda: _number(listed) == _number(failed) > 0, f"failed partitions of {asset}", PATIENCE_SECONDS)
        self._shoot(screenshot)
        return _number(listed)

    def read_events(self, asset: str, partition: str, text: str, screenshot: str) -> None:
        """What happened to a partition of an asset, where `text` is to be read."""
        self._page.goto(f"{self._address}/assets/{asset}?view=partitions&partition={partition}")
        self._page.get_by_role("button", name="View all historical events").click()
        dialog = self._page.get_by_role("dialog")
        dialog.get_by_text(partition, exact=True).first.click()
        expect(dialog.get_by_text(text).first).to_be_visible()
        self._shoot(screenshot)

    def materialise_failed(self, count: int, screenshot: str) -> None:
        """Materialize all... → Failed → Launch backfill, once the dialog has heard of `count` failed partitions."""
        self._page.goto(f"{self._address}/locations/ingestion_pipeline/asset-groups/ingestion")
        self._page.get_by_role("button", name="Materialize all…").click()
        dialog = self._page.get_by_role("dialog")
        selected = dialog.get_by_text(re.compile(r"^\d+ partitions?$"))

        def has_selected_them() -> bool:
            dialog.get_by_text("Failed", exact=True).click()
            return _number(selected) == count

        wait_for(has_selected_them, f"{count} failed partitions are selected", PATIENCE_SECONDS)
        self._shoot(screenshot)
        dialog.get_by_role("button", name="Launch backfill").click()
        expect(dialog).to_be_hidden()

    def keep(self, name: str, text: str) -> None:
        """A file beside the screenshots."""
        (self._folder / name).write_text(text)

    def _shoot(self, name: str) -> None:
        self._page.screenshot(path=self._folder / f"{name}.png")


@contextmanager
def dagster_ui(address: str, folder: Path) -> Iterator[DagsterUi]:
    """A browser with the UI of a stack; `folder` is for screenshots unless INGEST_TEST_ARTIFACTS names another."""
    program, environment = _chromium()
    kept = Path(os.environ.get("INGEST_TEST_ARTIFACTS") or folder)
    kept.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, env=environment)
        try:
            page = browser.new_page(viewport={"width": 1600, "height": 1400}, locale="en-US")
            page.set_default_timeout(PATIENCE_SECONDS * 1000)
            expect.set_options(timeout=PATIENCE_SECONDS * 1000)
            yield DagsterUi(page, address, kept)
        finally:
            browser.close()


def _chromium() -> tuple[Path, dict[str, str | float | bool]]:
    """The program and its environment."""
    named = os.environ.get("INGEST_TEST_CHROMIUM")
    program = Path(named) if named else INSTALLED / "chromium"
    assert program.is_file(), (
        f"no Chromium at {program}: `make test` installs one, or name one of yours by INGEST_TEST_CHROMIUM"
    )
    brought_along = {
        "LD_LIBRARY_PATH": str(INSTALLED / "al2023" / "lib"),
        "FONTCONFIG_FILE": str(INSTALLED / "fonts.conf"),
    }
    return program, {**os.environ, **({} if named else brought_along)}


def _number(text: Locator) -> int:
    """The number in a text of the page; 0 while it isn't there."""
    found = re.search(r"\d+", text.first.inner_text()) if text.count() else None
    return int(found[0]) if found else 0
