"""Files, jobs and webhook configurations as the application keeps them, and as the API shows jobs."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, Field

RETENTION = timedelta(hours=48)
CREDITS_A_PAGE = {"fast": 1, "cost_effective": 3, "agentic": 10, "agentic_plus": 45}


class Status(StrEnum):
    """PENDING -> RUNNING -> COMPLETED | FAILED | CANCELLED; a pending job can be cancelled, too."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


FINISHED = {Status.COMPLETED, Status.FAILED, Status.CANCELLED}


def now() -> str:
    """The time as the API writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Webhook(BaseModel):
    """One entry of `webhook_configurations`."""

    url: str
    events: list[str] | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    output_format: str = "string"
    signing_secret: str | None = None


class StoredFile(BaseModel):
    """An uploaded file; its bytes lie beside this record."""

    id: str = Field(default_factory=lambda: f"dfl-{uuid4()}")
    name: str
    project_id: str
    purpose: str = "parse"
    external_file_id: str | None = None
    sha256: str
    size: int
    created_at: str = Field(default_factory=now)

    def shown(self) -> dict[str, Any]:
        """The file as the API answers it."""
        expires = datetime.fromisoformat(self.created_at) + RETENTION
        return {
            "id": self.id,
            "name": self.name,
            "project_id": self.project_id,
            "external_file_id": self.external_file_id,
            "file_type": self.name.rpartition(".")[2].lower() if "." in self.name else None,
            "purpose": self.purpose,
            "last_modified_at": self.created_at,
            "expires_at": expires.isoformat().replace("+00:00", "Z"),
        }


class Job(BaseModel):
    """A parse job with everything that is needed to take it up again after a crash."""

    id: str = Field(default_factory=lambda: f"pjb-{uuid4()}")
    project_id: str
    number: int = 0
    status: Status = Status.PENDING
    tier: str
    version: str
    file_id: str | None = None
    source_url: str | None = None
    name: str
    external_file_id: str | None = None
    user_metadata: dict[str, str] | None = None
    target_pages: str | None = None
    max_pages: int | None = None
    timeout_seconds: float | None = None
    webhooks: list[Webhook] = Field(default_factory=list)
    error_code: str | None = None
    error_text: str | None = None
    page_count: int | None = None
    created_at: str = Field(default_factory=now)
    updated_at: str = Field(default_factory=now)

    @property
    def finished(self) -> bool:
        """Whether the status is final."""
        return self.status in FINISHED

    @property
    def error_message(self) -> str | None:
        """The code, a colon and a sentence: the vendor's job has no field for the code alone."""
        return None if self.error_code is None else f"{self.error_code}: {self.error_text}"

    def subjects(self) -> list[str]:
        """What a scripted fault is matched against."""
        given = [self.id, self.file_id, self.name, self.external_file_id, self.source_url]
        return [text for text in given if text] + list((self.user_metadata or {}).values())

    def shown(self) -> dict[str, Any]:
        """The job as the API answers it."""
        usage = None if self.page_count is None else {"credits": self.page_count * CREDITS_A_PAGE[self.tier]}
        return {
            "id": self.id,
            "project_id": self.project_id,
            "status": self.status.value,
            "error_message": self.error_message,
            "name": self.name,
            "tier": self.tier,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "usage": usage,
            "user_metadata": self.user_metadata,
        }
