"""The endpoints of documents: upload, list, look, history, retry, cancel."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from ingestion_pipeline.api import cursors, uploads
from ingestion_pipeline.api.authentication import CurrentPrincipal
from ingestion_pipeline.api.correlation import correlation_id_of
from ingestion_pipeline.api.multipart import FRAMING_BYTES, FileForm, body_blocks
from ingestion_pipeline.api.openapi import problems
from ingestion_pipeline.api.schemas import (
    Document,
    DocumentPage,
    DocumentWithHistory,
    Event,
    EventPage,
    KnownDocuments,
    Summary,
)
from ingestion_pipeline.api.services import CurrentServices
from ingestion_pipeline.catalogue import Position, Selection
from ingestion_pipeline.domain import State, document_id_for
from ingestion_pipeline.errors import TooLargeError
from ingestion_pipeline.stages import file_types

HISTORY_EVENTS = 100
MAX_EVENT_ID = 2**63 - 1

router = APIRouter(tags=["documents"])

UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Exactly one part, `file`, with a file name. The file is checked while it streams in.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": file_types.supported_list()}
                    },
                },
                "encoding": {"file": {"contentType": ", ".join(kind.content_type for kind in file_types.SUPPORTED)}},
            }
        },
    }
}
LOCATION = {"Location": {"description": "The document's address.", "schema": {"type": "string"}}}


@router.post(
    "/documents",
    summary="Upload a document",
    status_code=201,
    response_description="A new document, in the queue.",
    responses={
        200: {
            "model": Document,
            "description": "This owner has uploaded the same bytes before; if that failed, see `retry_path`.",
            "headers": LOCATION,
        },
        201: {"headers": LOCATION},
        **problems(400, 401, 408, 413, 415, 422, 503),
    },
    openapi_extra=UPLOAD_BODY,
)
async def upload_document(
    request: Request, response: Response, principal: CurrentPrincipal, services: CurrentServices
) -> Document:
    """Takes a file in and queues it. The same bytes again give the same document, also at the same instant."""
    body = body_blocks(
        request,
        limit_bytes=services.max_upload_bytes + FRAMING_BYTES,
        too_large=TooLargeError(f"The upload is larger than the limit of {services.max_upload_bytes:,} bytes."),
        pause_seconds=services.body_pause_seconds,
    )
    form = FileForm(request.headers.get("content-type"), body)
    received = await uploads.receive(
        services, form, owner_id=principal.owner_id, correlation_id=correlation_id_of(request)
    )
    response.status_code = 201 if received.is_new else 200
    response.headers["Location"] = f"/documents/{received.document.document_id}"
    return Document.of(received.document)


@router.get("/documents", summary="List documents", responses=problems(401, 422, 503))
def list_documents(
    principal: CurrentPrincipal,
    services: CurrentServices,
    state: Annotated[
        list[State] | None,
        Query(description="Only documents in this state, or in one of these: give it several times."),
    ] = None,
    code: Annotated[
        str | None,
        Query(max_length=100, pattern="^[a-z0-9_]+$", description="Only those whose last error has this code."),
    ] = None,
    has_error: Annotated[
        bool | None,
        Query(description="Only those whose last attempt failed: dead letters, and what waits for a retry."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Most documents of a page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=200, description="`next_cursor` of the previous page.")] = None,
) -> DocumentPage:
    """The owner's documents, newest first, page by page."""
    after = cursors.decode(cursor) if cursor else None
    selection = Selection(tuple(state) if state else None, code, has_error)
    found = services.catalogue.list_documents(principal.owner_id, selection=selection, after=after, limit=limit + 1)
    page = found[:limit]
    last = page[-1] if len(found) > limit else None
    return DocumentPage(
        documents=[Document.of(record) for record in page],
        next_cursor=cursors.encode(Position(last.created_at, last.document_id)) if last else None,
    )


@router.get("/documents/lookup", summary="Ask which files are there already", responses=problems(401, 422, 503))
def look_documents_up(
    principal: CurrentPrincipal,
    services: CurrentServices,
    sha256: Annotated[
        list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]],
        Query(max_length=100, description="Of a file's bytes, in hexadecimal; give it several times."),
    ],
) -> KnownDocuments:
    """The owner's documents of these contents. A client that asks first sends only what is new."""
    wanted = {document_id_for(principal.owner_id, bytes.fromhex(content)) for content in sha256}
    found = services.catalogue.find(principal.owner_id, list(wanted))
    return KnownDocuments(documents=[Document.of(record) for record in found])


@router.get("/documents/summary", summary="Count documents by state", responses=problems(401, 503))
def summarise_documents(principal: CurrentPrincipal, services: CurrentServices) -> Summary:
    """How many of the owner's documents are in each state."""
    counts = services.catalogue.count_by_state(principal.owner_id)
    return Summary(total=sum(counts.values()), states={state: counts.get(state, 0) for state in State})


@router.get("/documents/{document_id}", summary="Look at a document", responses=problems(401, 404, 422, 503))
def get_document(document_id: UUID, principal: CurrentPrincipal, services: CurrentServices) -> DocumentWithHistory:
    """State, progress, what was bought for it, the last error with its remedy, and the newest 100 events."""
    record, events = services.catalogue.history(principal.owner_id, document_id, limit=HISTORY_EVENTS)
    usage = services.accounts.usage_of_document(principal.owner_id, document_id)
    return DocumentWithHistory.with_history(record, events, usage)


@router.get("/documents/{document_id}/events", summary="Follow a document", responses=problems(401, 404, 422, 503))
def list_events(
    document_id: UUID,
    principal: CurrentPrincipal,
    services: CurrentServices,
    after: Annotated[int, Query(ge=0, le=MAX_EVENT_ID, description="Only events after this `event_id`.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most events of an answer.")] = 100,
) -> EventPage:
    """The document's whole history, oldest first."""
    found = services.catalogue.events(principal.owner_id, document_id, after_event_id=after, limit=limit + 1)
    page = found[:limit]
    return EventPage(
        events=[Event.of(record) for record in page], next_after=page[-1].event_id if len(found) > limit else None
    )


@router.post(
    "/documents/{document_id}/retry",
    summary="Take a document up again",
    status_code=202,
    response_description="The document, back in the queue.",
    responses=problems(401, 404, 409, 422, 503),
)
def retry_document(
    document_id: UUID,
    principal: CurrentPrincipal,
    services: CurrentServices,
    start_over: Annotated[
        bool,
        Query(description="From the very beginning, the parser included; complete documents too."),
    ] = False,
) -> Document:
    """What failed or was cancelled goes on from where its work is kept; what waits for a retry is due at once."""
    return Document.of(services.catalogue.retry(principal.owner_id, document_id, start_over=start_over))


@router.post(
    "/documents/{document_id}/cancel",
    summary="Stop the work on a document",
    response_description="The document, cancelled.",
    responses=problems(401, 404, 409, 422, 503),
)
def cancel_document(document_id: UUID, principal: CurrentPrincipal, services: CurrentServices) -> Document:
    """Nothing more is done for it. What is kept serves a retry."""
    return Document.of(services.catalogue.cancel(principal.owner_id, document_id))
