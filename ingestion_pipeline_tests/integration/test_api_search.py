"""Search over real vectors in Postgres: the nearest chunks of the owner's complete documents, and where they stand."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any
from uuid import UUID

import pytest
from conftest import DatabaseUrls
from document_journey import Journey
from running_api import KEY, OTHER_KEY, RunningApi, WordEmbedder

from ingestion_pipeline.errors import VendorRejectedError, VendorUnavailableError

PUMP, SEAL, VALVE = "the pump leaks oil", "replace the worn seal", "close the main valve"


@pytest.fixture
def library(api: RunningApi, database_urls: DatabaseUrls) -> Iterator[dict[str, str]]:
    """A complete document of the owner, one that is on its way, and a complete one of somebody else; ids by name."""
    found: dict[str, str] = {}
    with ExitStack() as stack:
        for number, (name, key, is_complete) in enumerate(
            [("mine", KEY, True), ("unfinished", KEY, False), ("theirs", OTHER_KEY, True)]
        ):
            document_id = api.upload(f"# {name}".encode(), name=f"{name}.md", key=key).json()["document_id"]
            journey = stack.enter_context(closing(Journey(database_urls.worker, UUID(document_id))))
            if is_complete:
                journey.complete([PUMP, SEAL, VALVE], f"pjb-{number}")
            found[name] = document_id
        yield found


def test_the_nearest_chunk_comes_first_with_its_place_in_the_document(api: RunningApi, library: dict[str, str]) -> None:
    answer = api.get("/search", params={"q": "  worn seal ", "limit": 2})

    assert answer["model"] == WordEmbedder.model
    best, second = answer["results"]
    assert best["document_id"] == library["mine"]
    assert best["filename"] == "mine.md"
    assert best["text"] == SEAL
    assert best["ordinal"] == 1
    assert best["pages"] == {"first": 1, "last": 2}
    assert best["heading_path"] == ["Manual", "Pumps"]
    assert best["offsets"] == {"start": len(PUMP), "end": len(PUMP) + len(SEAL)}
    assert 1.0 >= best["score"] > second["score"] >= -1.0
    assert best["score"] == pytest.approx(2 / 8**0.5, abs=0.02)


def test_search_finds_complete_documents_of_the_owner_only(api: RunningApi, library: dict[str, str]) -> None:
    mine = api.get("/search", params={"q": "pump", "limit": 100})["results"]
    theirs = api.get("/search", params={"q": "pump", "limit": 100}, key=OTHER_KEY)["results"]

    assert {hit["document_id"] for hit in mine} == {library["mine"]}
    assert {hit["document_id"] for hit in theirs} == {library["theirs"]}
    assert len(mine) == len(theirs) == 3


def test_search_in_an_empty_library_finds_nothing(api: RunningApi) -> None:
    assert api.get("/search", params={"q": "pump"})["results"] == []


@pytest.mark.parametrize(
    "parameters",
    [{}, {"q": ""}, {"q": " \n"}, {"q": "x" * 2001}, {"q": "x", "limit": 0}, {"q": "x", "limit": 101}],
)
def test_a_query_that_will_not_do_is_refused(api: RunningApi, parameters: dict[str, Any]) -> None:
    response = api.request("GET", "/search", params=parameters)

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


def test_a_query_of_2000_characters_is_answered(api: RunningApi) -> None:
    assert api.get("/search", params={"q": "ü" * 2000, "limit": 100})["results"] == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (VendorUnavailableError("OpenAI at https://internal answers 500", retry_after_seconds=42), 503),
        (VendorRejectedError("OpenAI refuses the key sk-secret", code="invalid_api_key"), 502),
    ],
)
def test_a_failing_embedder_is_told_apart_from_a_wrong_query_and_gives_nothing_away(
    database_urls: DatabaseUrls, tmp_path: Any, error: Exception, status: int
) -> None:
    class FailingEmbedder(WordEmbedder):
        def embed(self, texts: Any) -> Any:
            raise error

    api = RunningApi(database_urls.api, tmp_path / "objects", {"embedder": FailingEmbedder()})
    api.start()
    try:
        response = api.request("GET", "/search", params={"q": "pump"})
    finally:
        api.stop()

    assert response.status_code == status
    assert "internal" not in response.json()["detail"]
    assert "secret" not in response.text
    if status == 503:
        assert response.headers["Retry-After"] == "42"
