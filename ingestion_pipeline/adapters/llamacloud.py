"""LlamaParse (LlamaCloud's API v2) over HTTP; its webhooks and its answers are read in the modules beside this.

Not through the vendor's SDK, which takes several times the CPU of a request and lets answers of wrong types through, so
that they had to be read here anyway. What it knows besides are paths and the names of fields: the tests hold what is
sent here against what it sends.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from io import BytesIO
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

from pydantic_core import from_json, to_json
from requests_toolbelt import MultipartEncoder

from ingestion_pipeline.adapters.llamacloud_answers import (
    malformed,
    parse_failure,
    read_job,
    read_object,
    read_objects,
    read_pages,
    read_text,
    refusal,
)
from ingestion_pipeline.adapters.llamacloud_webhook import (
    OUTCOME_OF_EVENT,
    ParseEvent,
    WebhookRejectedError,
    verify_webhook,
)
from ingestion_pipeline.adapters.vendor_answers import check_client_settings
from ingestion_pipeline.adapters.vendor_connections import Answer, Connections
from ingestion_pipeline.domain import ParsedPage, ParseJob, ParseOutcome, VendorCall
from ingestion_pipeline.errors import IngestionError, ParseJobLostError, TransientError, VendorUnavailableError
from ingestion_pipeline.ports import ParseRequest
from ingestion_pipeline.stages.usage import parsing_call

__all__ = ["LlamaCloudParser", "ParseEvent", "WebhookRejectedError", "parse_failure", "verify_webhook"]

FILES, JOBS = "/api/v1/beta/files", "/api/v2/parse"
FIND_PAGES, FIND_PAGE_SIZE = 10, 100  # a job that we lost the answer of is young, and listings begin with the newest

Meanings = Mapping[int, IngestionError]


class _OverError(IngestionError):
    """There is nothing left to cancel."""


class LlamaCloudParser:
    """ports.Parser; safe to use from threads. Nothing is tried again here: retries are outside."""

    def __init__(
        self,
        api_key: str,
        base_url: str,
        webhook_url: str,
        webhook_signing_secret: str,
        tier: str = "cost_effective",
        version: str = "latest",
        timeout_seconds: float = 60.0,
    ) -> None:
        check_client_settings("LlamaCloud", base_url, api_key)
        self._base_url = base_url.rstrip("/")
        self._secrets = (api_key, webhook_signing_secret)
        self._tier = tier
        self._version = version
        self._webhook: dict[str, Any] = {
            "webhook_url": webhook_url,
            "webhook_events": list(OUTCOME_OF_EVENT),
            "webhook_output_format": "json",
            "webhook_signing_secret": webhook_signing_secret,
        }
        headers = {
            "Authorization": f"Bearer {api_key}",
            "Accept": "application/json",
            "User-Agent": "ingestion-pipeline",
        }
        self._connections = Connections(headers, timeout_seconds)

    def submit(self, request: ParseRequest) -> ParseJob:
        """Create the file and then the job: uploading both at once loses `user_metadata`, by which find() goes.

        The parts go through a temporary file: the upload then has a Content-Length, which proxies may insist on, and
        an error while they are read is not taken for one of the vendor.
        """
        with TemporaryFile() as file:
            try:
                file.writelines(request.parts)
                file.seek(0)
            except OSError as error:
                reason = f"the file could not be copied to a temporary folder: {error.strerror}"
                raise TransientError(reason, code="no_temporary_space") from error
            form = MultipartEncoder({"purpose": "parse", "file": (request.filename, file, request.content_type)})
            answer = self._read(lambda url: self._connections.post(url, form.content_type, form, form.len), FILES)
            file_id = read_text(answer, "id")
        user_metadata = {
            "document_id": str(request.document_id),
            "correlation_id": str(request.correlation_id),
            "attempt": str(request.attempt),
        }
        job = {
            "tier": self._tier,
            "version": self._version,
            "file_id": file_id,
            "user_metadata": user_metadata,
            "webhook_configurations": [self._webhook],
        }
        not_found = VendorUnavailableError(f"LlamaCloud does not know the file {file_id} that it has just taken")
        return read_job(self._post(JOBS, job, {404: not_found}))

    def find(self, document_id: UUID, attempt: int) -> ParseJob | None:
        """The newest job of this document and attempt among the FIND_PAGES * FIND_PAGE_SIZE newest of the project."""
        sought = {"document_id": str(document_id), "attempt": str(attempt)}
        page = {"page_size": str(FIND_PAGE_SIZE)}
        for _ in range(FIND_PAGES):
            answer = self._get(f"{JOBS}?{urlencode(page)}")
            for job in read_objects(answer, "items"):
                if isinstance(known := job.get("user_metadata"), dict) and sought.items() <= known.items():
                    return read_job(job)
            token = answer.get("next_page_token")
            if not isinstance(token, str) or not token:
                break
            page["page_token"] = token
        return None

    def status(self, job_id: str) -> ParseJob:
        """The job now. Raises ParseJobLostError if the vendor does not know it."""
        lost = ParseJobLostError(f"LlamaCloud does not know the job {job_id}")
        return read_job(read_object(self._get(_path_of(job_id), {404: lost}), "job"))

    def pages(self, job_id: str) -> list[ParsedPage]:
        """The pages of a job that succeeded, ascending. Raises ParseJobLostError, or what the job failed with."""
        not_ready = VendorUnavailableError(f"the job {job_id} is not finished", code="parse_not_ready")
        lost = ParseJobLostError(f"LlamaCloud no longer has the result of the job {job_id}")
        try:
            answer = self._get(f"{_path_of(job_id)}?expand=markdown", {404: lost})
        except ParseJobLostError as error:
            # A 404 is the answer for an unknown job, an expired result and a job at work: only the last is waited for.
            if self.status(job_id).outcome is None:
                raise not_ready from error
            raise
        job = read_job(read_object(answer, "job"))
        if job.outcome is None:
            raise not_ready
        if job.outcome is not ParseOutcome.SUCCESS:
            raise parse_failure(job)
        return read_pages(read_object(answer, "markdown"))

    def failure(self, job: ParseJob) -> IngestionError:
        """Why a job that ended without a result did so, classified; not raised."""
        return parse_failure(job)

    def cancel(self, job_id: str) -> None:
        """Ask the vendor to stop; no error if it is over already, which the vendor answers with 400, 404 or 409."""
        over = _OverError(f"the job {job_id} is over")
        with contextlib.suppress(_OverError):
            self._post(f"{_path_of(job_id)}/cancel", None, {400: over, 404: over, 409: over})

    def bill(self, document_id: UUID, pages: int) -> VendorCall:
        """By the price list of the tier."""
        return parsing_call(self._tier, document_id, pages)

    def close(self) -> None:
        """Drop the connections."""
        self._connections.close()

    def _get(self, path: str, meanings: Meanings = MappingProxyType({})) -> dict[str, Any]:
        return self._read(self._connections.get, path, meanings)

    def _post(self, path: str, told: dict[str, Any] | None, meanings: Meanings) -> dict[str, Any]:
        body = b"" if told is None else to_json(told)
        return self._read(
            lambda url: self._connections.post(url, "application/json", BytesIO(body), len(body)), path, meanings
        )

    def _read(
        self, ask: Callable[[str], Answer], path: str, meanings: Meanings = MappingProxyType({})
    ) -> dict[str, Any]:
        """The JSON object of an answer.

        `meanings` are the HTTP errors that mean something else for this operation than they do in general.
        """
        try:
            status, content, wait_seconds = ask(self._base_url + path)
        except TimeoutError as error:
            raise VendorUnavailableError("LlamaCloud did not answer in time") from error
        except ConnectionError as error:
            raise VendorUnavailableError("LlamaCloud can't be reached, or the connection broke") from error
        if not 200 <= status < 300:
            raise meanings.get(status) or refusal(status, _told(content), wait_seconds, self._secrets)
        try:
            body = from_json(content)  # without decoding it first: half the memory of a large one
        except ValueError:
            body = self._lenient(content)
        if not isinstance(body, dict):
            raise malformed("JSON that is not an object")
        return body

    @staticmethod
    def _lenient(content: bytes) -> Any:
        """Of JSON with lone surrogates, which are replaced later."""
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise malformed("what is not JSON") from error


def _path_of(job_id: str) -> str:
    return f"{JOBS}/{quote(job_id, safe='')}"


def _told(content: bytes) -> Any:
    """What an answer of an error says, as JSON or else as text."""
    try:
        return from_json(content)
    except ValueError:
        return content.decode(errors="replace")
