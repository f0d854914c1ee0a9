"""The endpoint that the parser calls when a job is over."""

from typing import Annotated, Any

import structlog
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Request

from ingestion_pipeline.api.errors import BodyTooLargeError
from ingestion_pipeline.api.multipart import body_blocks
from ingestion_pipeline.api.openapi import problems
from ingestion_pipeline.api.services import CurrentServices

SOURCE = "llamaparse"
MAX_BODY_BYTES = 64 * 1024

router = APIRouter(tags=["webhooks"])
log = structlog.get_logger(__name__)

EVENT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"The event as the parser sends it, at most {MAX_BODY_BYTES:,} bytes.",
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["event_id", "event_type", "timestamp", "data"]},
                "example": {
                    "event_id": "e1",
                    "event_type": "parse.success",
                    "timestamp": 1795447500.1,
                    "data": {"id": "pjb-1", "job_id": "pjb-1"},
                },
            }
        },
    }
}


@router.post(
    "/webhooks/llamaparse",
    summary="Take a parser's event",
    status_code=204,
    response_description="Taken, now or earlier.",
    responses=problems(400, 401, 408, 413, 503),
    openapi_extra=EVENT_BODY,
)
async def receive_event(
    request: Request,
    services: CurrentServices,
    lc_signature: Annotated[
        str | None,
        Header(description="`sha256=<hex>`: HMAC-SHA256 of the raw body.", examples=["sha256=9f86d081884c7d65"]),
    ] = None,
) -> None:
    """Signed instead of authenticated. An event that came before, or that nothing follows from, is a 204 too."""
    blocks = body_blocks(
        request,
        limit_bytes=MAX_BODY_BYTES,
        too_large=BodyTooLargeError(f"The body is larger than {MAX_BODY_BYTES:,} bytes."),
        pause_seconds=services.body_pause_seconds,
    )
    raw_body = b"".join([block async for block in blocks])
    notice = services.verify_webhook(raw_body, lc_signature)
    result = await run_sync(services.catalogue.receive_parse_event, SOURCE, notice)
    log.info("webhook", event_type=notice.event_type, parse_job_id=notice.job_id, result=result)
