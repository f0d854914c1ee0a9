"""What the parse endpoints accept, checked as the vendor checks it."""

import re
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator

from mock_services.llamacloud.errors import ApiError
from mock_services.llamacloud.jobs import Job, StoredFile, Webhook
from mock_services.llamacloud.page_ranges import is_page_selection
from mock_services.llamacloud.webhooks import EVENTS

Tier = Literal["fast", "cost_effective", "agentic", "agentic_plus"]
Purpose = Literal["user_data", "parse", "extract", "split", "classify", "sheet", "agent_app"]
PURPOSES = get_args(Purpose)

# newest first; any other date is accepted, too, since the vendor keeps old versions for long
VERSIONS = {
    "fast": ["2026-06-15", "2025-12-11"],
    "cost_effective": ["2026-09-28", "2026-08-19", "2026-06-26"],
    "agentic": ["2026-10-16", "2026-09-29", "2026-06-18"],
    "agentic_plus": ["2026-09-28", "2026-08-19", "2026-07-08"],
}


class PageRanges(BaseModel):
    """Which pages to parse."""

    max_pages: int | None = Field(default=None, ge=1)
    target_pages: str | None = None

    @field_validator("target_pages")
    @classmethod
    def _selects_pages(cls, value: str | None) -> str | None:
        if value is not None and not is_page_selection(value):
            raise ValueError("target_pages must look like 1,3,5-8")
        return value


class Timeouts(BaseModel):
    """How long a job may take."""

    base_in_seconds: int | None = Field(default=None, ge=1, le=7200)


class ProcessingControl(BaseModel):
    """The part of the execution controls that has an effect here."""

    timeouts: Timeouts = Field(default_factory=Timeouts)


class WebhookConfiguration(BaseModel):
    """One receiver of a job's events."""

    webhook_url: str
    webhook_events: list[str] | None = None
    webhook_headers: dict[str, Any] | None = None
    webhook_output_format: Literal["json", "string"] | None = None
    webhook_signing_secret: str | None = None

    @field_validator("webhook_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        # the vendor wants HTTPS and a public address; here receivers live on loopback
        if not re.match("https?://[^/]", value):
            raise ValueError("webhook_url must be an HTTP URL")
        return value

    @field_validator("webhook_events")
    @classmethod
    def _are_known(cls, value: list[str] | None) -> list[str] | None:
        unknown = [event for event in value or [] if event not in EVENTS]
        if unknown:
            raise ValueError(f"unknown webhook events: {', '.join(unknown)}")
        return value


class ParseRequest(BaseModel):
    """The body of a create, or the configuration of an upload; unknown fields are ignored."""

    tier: Tier
    version: str | None = None
    file_id: str | None = None
    source_url: str | None = None
    user_metadata: dict[str, str] | None = None
    page_ranges: PageRanges | None = None
    processing_control: ProcessingControl | None = None
    output_options: dict[str, Any] | None = None
    webhook_configurations: list[WebhookConfiguration] | None = None

    @field_validator("version")
    @classmethod
    def _is_a_version(cls, value: str | None) -> str | None:
        if value and value != "latest" and not re.fullmatch(r"20\d\d-\d\d-\d\d", value):
            raise ValueError("version must be latest or a dated version")
        return value


def read_parse_request(body: bytes | str, *, uploaded: bool) -> ParseRequest:
    """Check a JSON body; 422 for what does not fit the schema, 400 for what is missing or contradictory."""
    try:
        request = ParseRequest.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        for detail in details:
            detail["loc"] = ("body", *detail["loc"])
        raise ApiError(422, details) from error
    if not request.version:
        raise ApiError(400, "version is required: use latest or a dated version of the tier")
    inputs = [uploaded, bool(request.file_id), bool(request.source_url)]
    if sum(inputs) != 1:
        raise ApiError(400, "Provide exactly one input: file_id, source_url or an uploaded file")
    if request.tier == "fast" and (request.output_options or {}).get("markdown"):
        raise ApiError(400, "The fast tier does not produce markdown")
    return request


def new_job(request: ParseRequest, file: StoredFile | None, project_id: str) -> Job:
    """The job that a request asks for."""
    ranges = request.page_ranges or PageRanges()
    control = request.processing_control or ProcessingControl()
    source_name = (request.source_url or "").partition("?")[0].rpartition("/")[2]
    return Job(
        project_id=project_id,
        tier=request.tier,
        version=request.version or "",
        file_id=file.id if file else None,
        source_url=request.source_url,
        name=file.name if file else source_name,
        external_file_id=file.external_file_id if file else None,
        user_metadata=request.user_metadata,
        target_pages=ranges.target_pages,
        max_pages=ranges.max_pages,
        timeout_seconds=control.timeouts.base_in_seconds,
        webhooks=[
            Webhook(
                url=entry.webhook_url,
                events=entry.webhook_events or None,
                headers={name: str(value) for name, value in (entry.webhook_headers or {}).items()},
                output_format=entry.webhook_output_format or "string",
                signing_secret=entry.webhook_signing_secret,
            )
            for entry in request.webhook_configurations or []
        ],
    )
