"""Health: alive says nothing of others; ready names the part that fails, without secrets."""

import shutil
import threading
from typing import Any

import pytest
from conftest import DatabaseUrls
from running_api import RunningApi, execute, wait_until


def readiness(api: RunningApi) -> tuple[int, dict[str, Any]]:
    response = api.request("GET", "/readyz", key=None)
    return response.status_code, response.json()["parts"]


def test_ready_while_everything_is_there(api: RunningApi) -> None:
    assert readiness(api) == (
        200,
        {name: {"ok": True, "code": None, "remedy": None} for name in ("database", "schema", "object_store")},
    )
    assert api.get("/healthz", key=None) == {"status": "ok"}


def test_not_ready_without_the_database_and_ready_again_with_it(api: RunningApi, database_urls: DatabaseUrls) -> None:
    execute(database_urls.owner, f"alter database {database_urls.name} connection limit 0")
    status, parts = readiness(api)

    assert status == 503
    assert (parts["database"]["ok"], parts["database"]["code"]) == (False, "database_unavailable")
    assert parts["object_store"]["ok"]
    assert "ingest_api" not in str(parts)
    assert api.get("/healthz", key=None) == {"status": "ok"}
    execute(database_urls.owner, f"alter database {database_urls.name} connection limit -1")
    wait_until(lambda: readiness(api)[0] == 200, "the API is ready again")


def test_not_ready_without_the_schema(empty_database_url: str, database_urls: DatabaseUrls, tmp_path: Any) -> None:
    unmigrated = database_urls.api.rpartition("/")[0] + "/" + empty_database_url.rpartition("/")[2]
    api = RunningApi(unmigrated, tmp_path / "objects")
    api.start()
    try:
        status, parts = readiness(api)
    finally:
        api.stop()

    assert status == 503
    assert parts["database"]["ok"]
    assert (parts["schema"]["ok"], parts["schema"]["code"]) == (False, "configuration_error")


def test_not_ready_without_the_object_store(api: RunningApi) -> None:
    shutil.rmtree(api.folder)
    api.folder.write_text("a file where the store's folder was")

    status, parts = readiness(api)

    assert status == 503
    assert parts["database"]["ok"]
    assert not parts["object_store"]["ok"]
    assert str(api.folder) not in str(parts)


def test_a_part_that_does_not_answer_is_not_ready(database_urls: DatabaseUrls, tmp_path: Any) -> None:
    api = RunningApi(database_urls.api, tmp_path / "objects", {"readiness_seconds": 0.3})
    api.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            released = threading.Event()
            patch.setattr(type(api.services.objects), "check", lambda _store: released.wait(20))
            status, parts = readiness(api)
            released.set()
    finally:
        api.stop()

    assert status == 503
    assert parts["object_store"]["code"] == "no_answer"
