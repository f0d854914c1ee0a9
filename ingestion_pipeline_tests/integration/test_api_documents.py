"""What the API tells of documents: state, progress, errors with their remedies, history, lists and counts."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from conftest import DatabaseUrls
from document_journey import Journey
from running_api import RunningApi, execute

from ingestion_pipeline.domain import Failure, State
from ingestion_pipeline.remedies import remedy_for

UNKNOWN_DOCUMENT = UUID("7c9e6679-7425-40de-944b-e07fc1f90ae7")

TEXTS = ["the pump leaks. ", "replace the seal. ", "close the valve. "]


@pytest.fixture
def journey(api: RunningApi, database_urls: DatabaseUrls) -> Iterator[Journey]:
    """A document that was just uploaded."""
    journey = Journey(database_urls.worker, UUID(api.upload(b"# Manual").json()["document_id"]))
    yield journey
    journey.close()


def test_progress_is_told_in_numbers_at_every_step(api: RunningApi, journey: Journey) -> None:
    [listed] = api.get("/documents")["documents"]
    path = f"/documents/{listed['document_id']}"

    def progress() -> tuple[str, int | None, int | None, int, int | None]:
        document = api.get(path)
        numbers = document["progress"]
        [listed] = api.get("/documents")["documents"]
        assert listed == {name: value for name, value in document.items() if name not in ("history", "usage")}
        return (
            document["state"],
            numbers["pages"],
            numbers["chunks_total"],
            numbers["chunks_embedded"],
            numbers["tokens"],
        )

    assert progress() == ("uploaded", None, None, 0, None)
    journey.submit("pjb-1")
    assert progress() == ("parse_queued", None, None, 0, None)
    journey.end_parsing("pjb-1")
    assert progress() == ("parsed", None, None, 0, None)
    journey.store_text("".join(TEXTS))
    assert progress() == ("parse_validated", 2, None, 0, None)
    assert api.get(path)["progress"]["failed_pages"] == [2]
    journey.store_chunks(TEXTS)
    assert progress() == ("chunks_stored", 2, 3, 0, 9)
    journey.start_embedding()
    assert progress() == ("embedding_in_progress", 2, 3, 0, 9)
    journey.embed(2)
    assert progress() == ("embedding_in_progress", 2, 3, 2, 9)
    assert api.get(path)["completed_at"] is None
    journey.embed(1)
    journey.finish()
    assert progress() == ("complete", 2, 3, 3, 9)
    document = api.get(path)
    assert document["embedding_model"] == "text-embedding-3-small"
    assert datetime.fromisoformat(document["completed_at"]) >= datetime.fromisoformat(document["created_at"])
    assert [event["to_state"] for event in document["history"]] == [
        "uploaded", "parse_queued", "parsed", "parse_validated", "chunks_stored", "embedding_in_progress",
        "embeddings_stored", "complete",
    ]  # fmt: skip
    assert {event["correlation_id"] for event in document["history"]} == {document["correlation_id"]}


def test_a_document_that_waits_for_a_retry_says_when_and_why(api: RunningApi, journey: Journey) -> None:
    [before] = api.get("/documents")["documents"]
    assert (before["attempt"], before["next_attempt_at"], before["last_error"]) == (0, None, None)

    journey.retry_later(Failure("vendor_unavailable", "LlamaCloud answers 503", "raw_upload", transient=True))

    document = api.get(f"/documents/{before['document_id']}")
    assert document["state"] == "uploaded"
    assert document["attempt"] == 1
    assert datetime.fromisoformat(document["next_attempt_at"]) > datetime.now(UTC) + timedelta(minutes=50)
    assert document["last_error"] == {
        "code": "vendor_unavailable",
        "message": "LlamaCloud answers 503",
        "stage": "raw_upload",
        "remedy": remedy_for("vendor_unavailable"),
    }
    assert [(event["to_state"], event["attempt"], event["error_code"]) for event in document["history"]] == [
        ("uploaded", 0, None),
        ("uploaded", 1, "vendor_unavailable"),
    ]


def test_a_dead_letter_says_what_to_do(api: RunningApi, journey: Journey) -> None:
    journey.give_up(Failure("pdf_is_protected", "the PDF needs a password", "raw_upload", transient=False))

    [document] = api.get("/documents")["documents"]
    assert document["state"] == "failed_parse"
    assert document["next_attempt_at"] is None
    assert document["last_error"]["code"] == "pdf_is_protected"
    assert "password" in document["last_error"]["remedy"]


def test_the_list_pages_through_all_documents_newest_first_without_gaps(
    api: RunningApi, database_urls: DatabaseUrls
) -> None:
    uploaded = [api.upload(f"# {number}".encode()).json()["document_id"] for number in range(7)]
    # Three of one instant: the id decides.
    execute(database_urls.owner, "update upload_pipeline.documents set created_at = '2026-01-01' where size_bytes = 3")

    seen, cursor = [], None
    while True:
        page = api.get("/documents", params={"limit": 2, "cursor": cursor})
        assert len(page["documents"]) <= 2
        seen += [document["document_id"] for document in page["documents"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == 7
    assert set(seen) == set(uploaded)


def test_the_newest_document_comes_first(api: RunningApi) -> None:
    uploaded = [api.upload(f"# {number}".encode()).json()["document_id"] for number in range(3)]

    assert [document["document_id"] for document in api.get("/documents")["documents"]] == uploaded[::-1]


def test_the_list_and_the_summary_tell_states_apart(api: RunningApi, journey: Journey) -> None:
    journey.submit("pjb-1")
    api.upload(b"# another")

    assert len(api.get("/documents")["documents"]) == 2
    [queued] = api.get("/documents", params={"state": "parse_queued"})["documents"]
    assert queued["state"] == "parse_queued"
    summary = api.get("/documents/summary")
    assert summary["total"] == 2
    assert set(summary["states"]) == {state.value for state in State}
    assert {state: number for state, number in summary["states"].items() if number} == {
        "uploaded": 1,
        "parse_queued": 1,
    }


def test_the_history_can_be_followed_from_any_event_on(api: RunningApi, journey: Journey) -> None:
    journey.complete(TEXTS)
    [document] = api.get("/documents")["documents"]
    path = f"/documents/{document['document_id']}/events"

    whole = api.get(path)
    assert whole["next_after"] is None
    assert len(whole["events"]) == 8
    assert whole["events"][0]["from_state"] is None
    first = api.get(path, params={"limit": 3})
    assert first["events"] == whole["events"][:3]
    assert first["next_after"] == whole["events"][2]["event_id"]
    rest = api.get(path, params={"after": first["next_after"]})
    assert rest["events"] == whole["events"][3:]
    assert api.get(path, params={"after": whole["events"][-1]["event_id"]}) == {"events": [], "next_after": None}


@pytest.mark.parametrize("path", ["/documents/{}", "/documents/{}/events"])
def test_a_document_that_is_not_there_is_a_404(api: RunningApi, path: str) -> None:
    response = api.request("GET", path.format(uuid4()))

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/documents?cursor=nonsense", "invalid_cursor"),
        ("/documents?cursor=MjAyNi0wMS0wMSBhYmM", "invalid_cursor"),
        ("/documents?cursor=%C3%BC", "invalid_cursor"),
        ("/documents?cursor=MjAyNi0wMS0wMSAwMDAwMDAwMC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMGE", "invalid_cursor"),
        ("/documents?limit=0", "invalid_request"),
        ("/documents?limit=201", "invalid_request"),
        ("/documents?state=nowhere", "invalid_request"),
        ("/documents?code=%00", "invalid_request"),
        ("/documents/not-a-uuid", "invalid_request"),
        (f"/documents/{UNKNOWN_DOCUMENT}/events?after=-1", "invalid_request"),
        (f"/documents/{UNKNOWN_DOCUMENT}/events?after={2**63}", "invalid_request"),
    ],
)
def test_parameters_that_will_not_do_are_refused(api: RunningApi, path: str, code: str) -> None:
    response = api.request("GET", path)

    assert (response.status_code, response.json()["code"]) == (422, code)
