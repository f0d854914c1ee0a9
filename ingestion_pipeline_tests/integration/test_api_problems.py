"""Every error is a problem detail, those of the framework and defects too; the description of the API has them all."""

import json
from typing import Any
from uuid import UUID, uuid4

import jsonschema
import pytest
import structlog
from conftest import DatabaseUrls
from openapi_spec_validator import validate
from running_api import KEY, RunningApi, WordEmbedder
from structlog.testing import capture_logs

from ingestion_pipeline import errors
from ingestion_pipeline.api.problems import STATUS_OF_ERROR, status_of
from ingestion_pipeline.errors import IngestionError
from ingestion_pipeline.logs import hide_secrets
from ingestion_pipeline.remedies import REMEDIES, remedy_for

UNKNOWN_DOCUMENT = UUID("7c9e6679-7425-40de-944b-e07fc1f90ae7")

QUERY = "the words of a user"


def assert_is_problem(response: Any, status: int, code: str, description: dict[str, Any]) -> None:
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    jsonschema.validate(problem, {"$ref": "#/components/schemas/Problem", **description})
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"] == f"urn:ingestion:problem:{code}"
    assert problem["remedy"] == remedy_for(code)
    assert problem["correlation_id"] == response.headers["X-Correlation-ID"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "no_such_path"),
        ("GET", "/documents/", 404, "no_such_path"),
        ("GET", "/docs", 404, "no_such_path"),
        ("DELETE", "/documents", 405, "method_not_allowed"),
        ("GET", "/documents?limit=many", 422, "invalid_request"),
        ("GET", f"/documents/{UNKNOWN_DOCUMENT}", 404, "not_found"),
    ],
)
def test_errors_of_the_framework_are_problems_too(
    api: RunningApi, method: str, path: str, status: int, code: str
) -> None:
    response = api.request(method, path)

    assert_is_problem(response, status, code, api.get("/openapi.json"))
    if status == 405:
        assert {"GET", "POST"} & set(response.headers["Allow"].split(", "))


def test_a_wrong_parameter_is_named_and_its_value_is_not_repeated(api: RunningApi) -> None:
    problem = api.request("GET", "/documents", params={"limit": "many", "state": QUERY}).json()

    assert {found["location"] for found in problem["errors"]} == {"query.limit", "query.state.0"}
    assert QUERY not in json.dumps(problem)


def test_a_defect_is_a_problem_that_gives_nothing_away_and_its_trace_is_in_the_log(
    database_urls: DatabaseUrls, tmp_path: Any
) -> None:
    class DefectiveEmbedder(WordEmbedder):
        def embed(self, texts: Any) -> Any:
            raise ZeroDivisionError(f"secret of {texts}")

    api = RunningApi(database_urls.api, tmp_path / "objects", {"embedder": DefectiveEmbedder()})
    api.start()
    try:
        with capture_logs() as logs:
            response = api.request("GET", "/search", params={"q": QUERY})
        description = api.get("/openapi.json")
    finally:
        api.stop()

    assert_is_problem(response, 500, "internal_error", description)
    assert "ZeroDivisionError" not in response.text
    [defect] = [entry for entry in logs if entry["event"] == "defect"]
    assert defect["error_type"] == "ZeroDivisionError"
    assert "in embed" in defect["trace"]
    assert QUERY not in json.dumps([{**entry, "trace": ""} for entry in logs])


@pytest.mark.parametrize("given", [None, "not-a-uuid", "1" * 1000])
def test_a_request_without_a_proper_correlation_id_gets_one(api: RunningApi, given: str | None) -> None:
    headers = {"X-Correlation-ID": given} if given else {}

    first, second = (api.request("GET", "/documents", headers=headers).headers["X-Correlation-ID"] for _ in range(2))

    assert UUID(first) != UUID(second)
    assert given not in (first, second)


def test_the_given_correlation_id_comes_back_also_with_an_error(api: RunningApi) -> None:
    given = str(uuid4())
    for path in ("/documents", "/nowhere", "/healthz"):
        assert api.request("GET", path, headers={"X-Correlation-ID": given}).headers["X-Correlation-ID"] == given


def test_the_description_is_valid_and_complete(api: RunningApi) -> None:
    description = api.get("/openapi.json", key=None)

    validate(description)
    operations = [
        (path, method, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    assert {(path, method) for path, method, _ in operations} == {
        ("/documents", "post"),
        ("/documents", "get"),
        ("/documents/lookup", "get"),
        ("/documents/summary", "get"),
        ("/documents/{document_id}", "get"),
        ("/documents/{document_id}/events", "get"),
        ("/documents/{document_id}/retry", "post"),
        ("/documents/{document_id}/cancel", "post"),
        ("/search", "get"),
        ("/usage", "get"),
        ("/vendors", "get"),
        ("/metrics", "get"),
        ("/webhooks/llamaparse", "post"),
        ("/healthz", "get"),
        ("/readyz", "get"),
    }
    for path, method, operation in operations:
        is_open = path in ("/webhooks/llamaparse", "/healthz", "/readyz")
        assert ("security" in operation) != is_open, path
        assert operation["summary"], path
        assert operation["description"], path
        assert "500" in operation["responses"], path
        for status, response in operation["responses"].items():
            assert "X-Correlation-ID" in response["headers"], (path, method, status)
            if status == "204":
                continue
            [(media_type, content)] = response["content"].items()
            if (path, status) == ("/metrics", "200"):
                assert media_type == "text/plain"
                continue
            is_problem = int(status) >= 400 and (path, status) != ("/readyz", "503")
            assert media_type == ("application/problem+json" if is_problem else "application/json"), (path, status)
            assert "$ref" in content["schema"], (path, status)
            if is_problem:
                schema = {"$ref": "#/components/schemas/Problem", "components": description["components"]}
                jsonschema.validate(content["example"], schema)
    form = description["paths"]["/documents"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert form["schema"]["required"] == ["file"]
    assert "application/pdf" in form["encoding"]["file"]["contentType"]
    assert description["components"]["securitySchemes"]["bearerKey"]["scheme"] == "bearer"


@pytest.mark.parametrize(
    ("path", "method", "statuses"),
    [
        ("/documents", "post", {200, 201, 400, 401, 408, 413, 415, 422, 500, 503}),
        ("/documents", "get", {200, 401, 422, 500, 503}),
        ("/documents/lookup", "get", {200, 401, 422, 500, 503}),
        ("/documents/summary", "get", {200, 401, 500, 503}),
        ("/documents/{document_id}", "get", {200, 401, 404, 422, 500, 503}),
        ("/documents/{document_id}/events", "get", {200, 401, 404, 422, 500, 503}),
        ("/documents/{document_id}/retry", "post", {202, 401, 404, 409, 422, 500, 503}),
        ("/documents/{document_id}/cancel", "post", {200, 401, 404, 409, 422, 500, 503}),
        ("/search", "get", {200, 401, 422, 500, 502, 503}),
        ("/webhooks/llamaparse", "post", {204, 400, 401, 408, 413, 500, 503}),
        ("/healthz", "get", {200, 500}),
        ("/readyz", "get", {200, 500, 503}),
    ],
)
def test_every_status_that_an_operation_answers_with_is_described(
    api: RunningApi, path: str, method: str, statuses: set[int]
) -> None:
    described = api.get("/openapi.json")["paths"][path][method]["responses"]

    assert {int(status) for status in described} == statuses


def test_the_answers_are_as_described(api: RunningApi) -> None:
    description = api.get("/openapi.json")
    document = api.upload(b"# notes").json()
    for path, schema in {
        f"/documents/{document['document_id']}": "DocumentWithHistory",
        f"/documents/{document['document_id']}/events": "EventPage",
        "/documents": "DocumentPage",
        "/documents/summary": "Summary",
        "/search?q=notes": "SearchResults",
        "/healthz": "Health",
        "/readyz": "Readiness",
    }.items():
        jsonschema.validate(api.get(path), {"$ref": f"#/components/schemas/{schema}", **description})


def test_every_error_of_the_project_has_a_status_and_a_remedy() -> None:
    kinds: list[type[IngestionError]] = [errors.IngestionError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    for kind in set(kinds):
        assert status_of(kind("message")) in set(STATUS_OF_ERROR.values()), kind
    own = {kind.code for kind in set(kinds) if kind.__module__.startswith("ingestion_pipeline.")}
    abstract = {"permanent_error", "transient_error", "api_refused", "api_unavailable"}
    assert own - abstract <= set(REMEDIES), own - abstract - set(REMEDIES)


def test_logs_name_the_request_by_its_id_and_hold_neither_the_query_nor_the_key(api: RunningApi) -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        response = api.request("GET", "/search", params={"q": QUERY})

    [line] = [entry for entry in logs if entry["event"] == "request"]
    assert line["path"] == "/search"
    assert line["status"] == 200
    assert line["correlation_id"] == response.headers["X-Correlation-ID"]
    assert QUERY not in json.dumps(logs)
    assert KEY not in json.dumps(logs)


def test_what_looks_like_a_secret_is_hidden_in_logs() -> None:
    event = {
        "event": "can't reach postgresql://ingest_api:pa55word@host/db with Bearer abc.def and sk-proj-123456",
        "api_key": "plain",
        "tokens": 12,
    }

    hidden = hide_secrets(None, "info", dict(event))

    assert hidden == {
        "event": "can't reach postgresql://ingest_api:***@host/db with Bearer *** and ***",
        "api_key": "***",
        "tokens": 12,
    }
