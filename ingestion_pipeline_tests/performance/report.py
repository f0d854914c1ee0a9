"""What the measurements found: figures, as a table that is text and Markdown at once, as JSON, and as a plot."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from io import StringIO
from pathlib import Path

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

TABLE_WIDTH = 220
BAR_HEIGHT, BAR_WIDTH, LABEL_WIDTH, VALUE_WIDTH = 24, 420, 340, 110
PLOTTED_UNIT = "documents/s"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value.

    `against` is what it is held against, in the same unit: mostly the limit's value, taken in the same call; `ratio` is
    how many times better it is than that (0.5: half as good). `target` says what is wished for, `met` whether it is so.
    """

    measurement: str
    what: str
    value: float
    unit: str
    against: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None


def table(figures: Sequence[Figure]) -> str:
    """The figures, one a line, as Markdown that can be read as text."""
    shown = Table(box=box.MARKDOWN)
    for heading in ("Measurement", "Figure"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("Value", "Against", "Ratio"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for heading in ("Target", "Met"):
        shown.add_column(heading, no_wrap=True)
    for figure in figures:
        shown.add_row(
            figure.measurement,
            figure.what,
            f"{number(figure.value)} {figure.unit}",
            "" if figure.against is None else number(figure.against),
            "" if figure.ratio is None else number(figure.ratio),
            figure.target,
            "" if figure.met is None else "yes" if figure.met else "NO",
        )
    output = StringIO()
    Console(file=output, width=TABLE_WIDTH).print(shown)
    return "\n".join(line.rstrip() for line in output.getvalue().strip().splitlines())


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.6f}"


def machine() -> dict[str, str]:
    """Where and when figures are taken; call it before, while the load is that of others."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": names[0] if names else platform.machine(),
        "cores": f"{os.cpu_count()} cores",
        "load": f"load {os.getloadavg()[0]:.1f} before",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "system": platform.platform(),
        "python": f"Python {platform.python_version()}",
    }


def write(folder: Path, figures: Sequence[Figure], mode: str, facts: Mapping[str, str]) -> None:
    """results.md, results.json and results.svg in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.md").write_text(f"{mode}; {'; '.join(facts.values())}\n\n{table(figures)}\n")
    document = {"machine": dict(facts), "mode": mode, "figures": [asdict(figure) for figure in figures]}
    (folder / "results.json").write_text(json.dumps(document, indent=2))
    (folder / "results.svg").write_text(plot([figure for figure in figures if figure.unit == PLOTTED_UNIT]))


def plot(figures: Sequence[Figure]) -> str:
    """Bars of the figures, which are of one unit, as SVG."""
    longest = max((figure.value for figure in figures), default=1.0)
    height = BAR_HEIGHT * (len(figures) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL_WIDTH + BAR_WIDTH + VALUE_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LABEL_WIDTH}" y="16">{PLOTTED_UNIT}</text>',
    ]
    for position, figure in enumerate(figures, start=1):
        top, width = position * BAR_HEIGHT, figure.value / longest * BAR_WIDTH
        label = escape(f"{figure.measurement}: {figure.what}")
        parts += [
            f'<text x="{LABEL_WIDTH - 8}" y="{top + 16}" text-anchor="end">{label}</text>',
            f'<rect x="{LABEL_WIDTH}" y="{top + 3}" width="{width:.1f}" height="{BAR_HEIGHT - 6}" fill="#3b6ea5"/>',
            f'<text x="{LABEL_WIDTH + width + 6:.1f}" y="{top + 16}">{number(figure.value)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
