"""docker-compose.yml: valid, complete, without secrets, and its services work together as it says."""

import ast
import json
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from compose_spec import ComposeSpecification, PyCompose
from running_stack import SETTLED, wait_for

from e2e.compose_project import (
    FOREIGN,
    VARIABLE,
    ComposeProject,
    compose_file,
    image_environment,
    interpolated,
)
from ingestion_pipeline.local_stack import stack as local_stack
from ingestion_pipeline.local_stack.postgres_settings import installed_programs
from ingestion_pipeline.settings import PREFIX, PROJECT_ROOT, Settings

SERVICES = compose_file()["services"]
SECRET_NAME = re.compile(r"PASSWORD|SECRET|_KEY(?:_ID)?\b|_KEY$")
SENTENCE = "The lighthouse keeper repaired the brass lamp before the storm."


def variables() -> list[tuple[str, str | None, str]]:
    """Every variable that the file takes: its name, `-` or `?`, and the default or the message."""
    text = (PROJECT_ROOT / "docker-compose.yml").read_text()
    return [(found["name"], found["kind"], found["rest"]) for found in VARIABLE.finditer(text)]


def secret_settings() -> dict[str, str]:
    """A .env as the README has it made."""
    block = (PROJECT_ROOT / "README.md").read_text().split("## Containers")[1].split("```")[1]
    loop = block.split("for name in")[1].split("; do")[0]
    return {name: secrets.token_hex(24) for name in re.findall(r"[A-Z][A-Z0-9_]+", loop)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeProject]:
    """Everything up, once for all tests here."""
    running = ComposeProject(tmp_path_factory.mktemp("compose"), secret_settings())
    try:
        running.up()
        yield running
    finally:
        running.down()


def test_the_file_follows_the_compose_specification() -> None:
    document = interpolated(compose_file(), secret_settings())
    parsed = PyCompose.from_json(json.dumps(document))  # refuses what the specification does not know
    parsed.validate()
    ComposeSpecification.model_validate(parsed.to_dict())


def test_every_service_and_volume_that_is_referred_to_exists() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        for dependency, how in service.get("depends_on", {}).items():
            needs_check = how["condition"] == "service_healthy"
            assert ("healthcheck" in SERVICES[dependency]) == needs_check, f"{name} waits for {dependency}"
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(compose_file()["volumes"]), name


def test_every_service_of_ingest_up_is_there() -> None:
    tree = ast.parse(Path(local_stack.__file__).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Service"]
    names = {ast.literal_eval(each.value) for call in calls for each in call.keywords if each.arg == "name"}
    assert len(names) >= 6
    assert names - set(SERVICES) == set()


def test_no_secret_has_a_default_and_each_has_to_be_set() -> None:
    mocks_keys = {"sk-mock", "llx-mock"}
    lax = [(name, rest) for name, kind, rest in variables() if SECRET_NAME.search(name) and kind != "?"]
    assert [(name, rest) for name, rest in lax if rest not in mocks_keys] == []
    for name in secret_settings():
        without = {key: value for key, value in secret_settings().items() if key != name}
        with pytest.raises(KeyError, match=name):
            interpolated(compose_file(), without)


def test_no_secret_is_written_into_the_file() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if SECRET_NAME.search(name):
                assert VARIABLE.fullmatch(value), name
            assert "://" not in value or "@" not in value or ":${" in value, name


def test_every_setting_of_the_file_is_known() -> None:
    of_dagster = set()
    for name in ("dagster.yaml", "workspace.yaml"):
        of_dagster |= set(re.findall(r"env: (\w+)", (PROJECT_ROOT / name).read_text()))
    given = {name for service in SERVICES.values() for name in service.get("environment", {})} | set(
        image_environment()
    )
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | of_dagster
    assert sorted(name for name in given if name.startswith(PREFIX) and name not in known) == []
    for service in ("code-server", "webserver", "daemon"):
        assert of_dagster <= set(SERVICES[service]["environment"]), service


def test_every_setting_that_the_example_offers_can_be_set_for_containers() -> None:
    # Its own PostgreSQL is fixed, that there is an S3 store, and where the API listens inside of its container.
    fixed = {"DATABASE_URL", "WORKER_DATABASE_URL", "API_DATABASE_URL", "OBJECT_STORE", "API_HOST"}
    offered = set(re.findall(rf"^# ({PREFIX}\w+)=", (PROJECT_ROOT / ".env.example").read_text(), flags=re.MULTILINE))
    assert sorted(offered - {name for name, _, _ in variables()} - {PREFIX + name for name in fixed}) == []


@pytest.mark.parametrize("name", list(SERVICES))
def test_the_programs_of_every_service_exist(name: str) -> None:
    service = SERVICES[name]
    folder = installed_programs() if name == FOREIGN else Path(sys.executable).parent
    commands = [service.get("command"), service.get("healthcheck", {}).get("test", [None])[1:]]
    for command in filter(None, commands):
        assert shutil.which(command[0], path=str(folder)), command[0]


def test_a_document_goes_through_the_services_of_the_file(project: ComposeProject) -> None:
    api = project.published("api")
    key = {"Authorization": f"Bearer {project.variables['INGEST_API_KEY']}"}
    file = ("lighthouse.md", f"# The lighthouse\n\n{SENTENCE}\n".encode(), "text/markdown")
    sent = requests.post(f"{api}/documents", headers=key, files={"file": file}, timeout=30)
    assert sent.status_code == 201, sent.text
    address = f"{api}/documents/{sent.json()['document_id']}"

    def settled() -> dict[str, object] | None:
        document: dict[str, object] = requests.get(address, headers=key, timeout=30).json()
        return document if document["state"] in SETTLED else None

    document = wait_for(settled, "the document is settled", 180)
    assert document["state"] == "complete", document
    found = requests.get(f"{api}/search", headers=key, params={"q": SENTENCE, "limit": 1}, timeout=30).json()["results"]
    assert [SENTENCE in hit["text"] for hit in found] == [True]


def test_every_service_that_stays_has_a_healthcheck_and_passes_it(project: ComposeProject) -> None:
    staying = [name for name, service in SERVICES.items() if service["restart"] == "unless-stopped"]
    for name in staying:
        wait_for(lambda name=name: project.is_healthy(name), f"{name} is healthy", 200, poll=1)


def test_the_published_dagster_ui_knows_the_assets(project: ComposeProject) -> None:
    query = {"query": "{ assetsOrError { ... on AssetConnection { nodes { key { path } } } } }"}
    answer = requests.post(f"{project.published('webserver')}/graphql", json=query, timeout=30).json()
    assert ["finalized"] in [node["key"]["path"] for node in answer["data"]["assetsOrError"]["nodes"]]


def test_every_service_ends_by_itself_when_it_is_told_to(project: ComposeProject) -> None:
    assert project.down() == set()
    assert project.left_over() == []
