"""What is written for people, held against the code: drawings, tables of codes, settings, make targets, links."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict

from ingestion_pipeline.domain import HAPPY_PATH, TRANSITIONS, State
from ingestion_pipeline.remedies import REMEDIES
from ingestion_pipeline.settings import PREFIX, PROJECT_ROOT, Settings

DOCUMENTS = [PROJECT_ROOT / "README.md", PROJECT_ROOT / "CHANGELOG.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
SETTING = re.compile(rf"{PREFIX}[A-Z0-9_]*[A-Z0-9](?![A-Z0-9_])")
CODE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
# Tables of codes in the adapters and the API, by their names; the vendors' codes are ours in lower case.
TABLE_OF_CODES = re.compile(r"_?([A-Z]+_)?(REFUSALS|CODES|FAILURES|CODE_OF_STATUS)")
# Roots of errors: whoever raises one itself gives it a code.
ROOTS = ("IngestionError", "PermanentError", "TransientError")


def modules() -> Iterator[tuple[Path, ast.Module]]:
    """The code whose errors people meet with a remedy; the command line shows those that the API sent."""
    for path in sorted((PROJECT_ROOT / "ingestion_pipeline").rglob("*.py")):
        if path.parent.name != "cli" and path.name != "remedies.py":
            yield path, ast.parse(path.read_text())


def constants(node: ast.expr | None) -> set[str]:
    """The strings that an expression may be: `"a"` and `"a" if condition else "b"`."""
    if isinstance(node, ast.IfExp):
        return constants(node.body) | constants(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def tabled(node: ast.AST) -> set[str]:
    """What looks like a code in a table."""
    texts = {text.lower() for each in ast.walk(node) if isinstance(each, ast.expr) for text in constants(each)}
    return {text for text in texts if CODE.fullmatch(text)}


def codes_in(tree: ast.Module) -> set[str]:
    """Codes that errors of a module may have: `code=...`, `"code": ...`, and tables of codes."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "code":
            found |= constants(node.value)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                found |= constants(value) if constants(key) == {"code"} else set()
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if "code" in names:
                found |= constants(node.value)
            if any(TABLE_OF_CODES.fullmatch(name) for name in names):
                found |= tabled(node)
        elif isinstance(node, ast.Call) and TABLE_OF_CODES.match(ast.unparse(node.func)):  # .get with a default
            found |= tabled(node)
    return found


def codes() -> set[str]:
    """Every code that an error of the pipeline and the API may have, but for those of the roots."""
    in_sql = re.findall(r"'(worker_lost)'", (PROJECT_ROOT / "sql" / "queries" / "jobs.sql").read_text())
    in_python = {code for _, tree in modules() for code in codes_in(tree)}
    return (in_python | set(in_sql)) - {"permanent_error", "transient_error"}


def example_settings() -> dict[str, str]:
    """What .env.example offers: names and values."""
    lines = (PROJECT_ROOT / ".env.example").read_text().splitlines()
    return dict(found.groups() for line in lines if (found := re.fullmatch(rf"(?:# )?({PREFIX}\w+)=(.*)", line)))


def field_names() -> set[str]:
    return {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}


def test_the_drawing_of_the_states_has_exactly_the_transitions_of_the_code() -> None:
    drawing = (PROJECT_ROOT / "docs" / "states.md").read_text().split("```mermaid")[1].split("```")[0]
    arrows = [tuple(line.strip().split(" --> ")) for line in drawing.splitlines() if "-->" in line]
    assert len(arrows) == len(set(arrows))
    ends = {("[*]", HAPPY_PATH[0].value), (HAPPY_PATH[-1].value, "[*]")}
    assert set(arrows) == {(before.value, after.value) for before, after in TRANSITIONS} | ends


def test_the_table_of_the_states_has_each_state() -> None:
    table = (PROJECT_ROOT / "docs" / "states.md").read_text().split("```mermaid")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(state.value for state in State)


def test_every_error_code_of_the_readme_exists() -> None:
    section = (PROJECT_ROOT / "README.md").read_text().split("## What can go wrong")[1].split("\n## ")[0]
    named = {code for row in re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE) for code in CODE.findall(row)}
    assert len(named) > 15
    assert named - codes() == set()


def test_every_code_of_the_code_base_has_a_remedy() -> None:
    assert sorted(codes() - set(REMEDIES)) == []


def test_every_remedy_is_for_a_code_of_the_code_base() -> None:
    assert sorted(set(REMEDIES) - codes()) == []


def test_whoever_raises_the_root_of_errors_gives_it_a_code() -> None:
    nameless = [
        f"{path.name}:{node.lineno}"
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ROOTS
        if "code" not in [keyword.arg for keyword in node.keywords]
    ]
    assert nameless == []


def test_every_setting_that_is_offered_or_spoken_of_exists() -> None:
    beyond = {"INGEST_DAGSTER_DATABASE_URL", "INGEST_DAGSTER_DATA_DIR"}  # dagster.yaml's, set by `ingest up`
    texts = [*(path.read_text() for path in DOCUMENTS), *REMEDIES.values(), *example_settings()]
    others = ("INGEST_CODE_SERVER_", "INGEST_TEST_")
    named = {name for text in texts for name in SETTING.findall(text) if not name.startswith(others)}
    # The README makes these by a loop over their names.
    assert named - field_names() - beyond - {"INGEST_WORKER_PASSWORD", "INGEST_API_PASSWORD"} == set()


def test_the_example_offers_every_setting_that_readers_are_told_to_set() -> None:
    texts = [*(path.read_text() for path in DOCUMENTS), *REMEDIES.values()]
    named = {name for text in texts for name in SETTING.findall(text)} & field_names()
    assert sorted(named - set(example_settings())) == []


def test_the_example_offers_every_setting_without_a_default() -> None:
    local = {"INGEST_OBJECT_STORE_DIR", "INGEST_API_URL"}  # `ingest up` sets them to what it has started
    needed = {f"{PREFIX}{name.upper()}" for name, field in Settings.model_fields.items() if field.default is None}
    assert sorted(needed - local - set(example_settings())) == []


def test_the_values_of_the_example_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in field_names():
        monkeypatch.delenv(name, raising=False)

    class FromExample(Settings):
        """All of .env.example, uncommented."""

        model_config = SettingsConfigDict(env_file=tmp_path / ".env")

    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in example_settings().items()))
    settings = FromExample()
    assert settings.api_port == Settings.model_fields["api_port"].default
    assert settings.max_upload_bytes == Settings.model_fields["max_upload_bytes"].default


def test_make_help_lists_each_target() -> None:
    makefile = (PROJECT_ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[0].split()
    assert sorted(targets) == sorted(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    shown = subprocess.run(["make", "help"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make (\w+) +\S", shown, flags=re.MULTILINE) == targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    broken = [link for link in links if "://" not in link and not (document.parent / link.split("#")[0]).exists()]
    assert broken == []


def test_every_path_of_the_architecture_exists() -> None:
    text = (PROJECT_ROOT / "docs" / "architecture.md").read_text()
    paths = re.findall(r"`((?:sql|ingestion_pipeline\w*|mock_services)/[\w./]*)`", text)
    assert len(paths) > 10
    assert [path for path in paths if not (PROJECT_ROOT / path).exists()] == []
