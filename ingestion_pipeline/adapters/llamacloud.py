"""LlamaParse through the `llama-cloud` SDK (API v2); its webhooks and its answers are read in the modules beside this.

The SDK takes 0.7 s to import and the API needs the webhooks only, so a LlamaCloudParser imports it when it is made.
"""

import contextlib
import json
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic_core import from_json

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
from ingestion_pipeline.domain import ParsedPage, ParseJob, ParseOutcome, VendorCall
from ingestion_pipeline.errors import IngestionError, ParseJobLostError, TransientError, VendorUnavailableError
from ingestion_pipeline.ports import ParseRequest
from ingestion_pipeline.stages.usage import parsing_call

if TYPE_CHECKING:
    from llama_cloud._response import APIResponse

__all__ = ["LlamaCloudParser", "ParseEvent", "WebhookRejectedError", "parse_failure", "verify_webhook"]

FIND_PAGES, FIND_PAGE_SIZE = 10, 100  # a job that we lost the answer of is young, and listings begin with the newest


class _OverError(IngestionError):
    """There is nothing left to cancel."""


@cache
def tls_context() -> ssl.SSLContext:
    """By which the SDK's client knows servers, with the certificates that it would read itself, once a process."""
    import httpx

    return httpx.create_ssl_context()


class LlamaCloudParser:
    """ports.Parser; safe to use from threads. The SDK's own retries are off: ours are outside."""

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
        import httpx
        import llama_cloud

        check_client_settings("LlamaCloud", base_url, api_key)
        self._sdk = llama_cloud
        self._secrets = (api_key, webhook_signing_secret)
        self._tier = tier
        self._version = version
        self._webhook: dict[str, Any] = {
            "webhook_url": webhook_url,
            "webhook_events": list(OUTCOME_OF_EVENT),
            "webhook_output_format": "json",
            "webhook_signing_secret": webhook_signing_secret,
        }
        timeout = httpx.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds))
        connections = llama_cloud.DefaultHttpxClient(verify=tls_context())
        client = llama_cloud.LlamaCloud(
            api_key=api_key, base_url=base_url, timeout=timeout, max_retries=0, http_client=connections
        )
        self._close = client.close
        # made once and here: the SDK makes them on first use, which is not safe in several threads at once
        self._files = client.files.with_raw_response
        self._parsing = client.parsing.with_raw_response

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
            upload = (request.filename, file, request.content_type)
            file_id = read_text(self._ask(lambda: self._files.create(file=upload, purpose="parse")), "id")
        user_metadata = {
            "document_id": str(request.document_id),
            "correlation_id": str(request.correlation_id),
            "attempt": str(request.attempt),
        }
        webhooks: Any = [self._webhook]

        def create() -> "APIResponse[Any]":
            return self._parsing.create(
                tier=self._tier,
                version=self._version,
                file_id=file_id,
                user_metadata=user_metadata,
                webhook_configurations=webhooks,
            )

        not_found = VendorUnavailableError(f"LlamaCloud does not know the file {file_id} that it has just taken")
        return read_job(self._ask(create, {404: not_found}))

    def find(self, document_id: UUID, attempt: int) -> ParseJob | None:
        """The newest job of this document and attempt among the FIND_PAGES * FIND_PAGE_SIZE newest of the project."""
        sought = {"document_id": str(document_id), "attempt": str(attempt)}
        token: str | None = None

        def list_page() -> "APIResponse[Any]":
            return self._parsing.list(page_size=FIND_PAGE_SIZE, page_token=token)

        for _ in range(FIND_PAGES):
            answer = self._ask(list_page)
            for job in read_objects(answer, "items"):
                if isinstance(known := job.get("user_metadata"), dict) and sought.items() <= known.items():
                    return read_job(job)
            token = answer.get("next_page_token")
            if not isinstance(token, str) or not token:
                break
        return None

    def status(self, job_id: str) -> ParseJob:
        """The job now. Raises ParseJobLostError if the vendor does not know it."""
        lost = ParseJobLostError(f"LlamaCloud does not know the job {job_id}")
        return read_job(read_object(self._ask(lambda: self._parsing.get(job_id), {404: lost}), "job"))

    def pages(self, job_id: str) -> list[ParsedPage]:
        """The pages of a job that succeeded, ascending. Raises ParseJobLostError, or what the job failed with."""
        not_ready = VendorUnavailableError(f"the job {job_id} is not finished", code="parse_not_ready")
        lost = ParseJobLostError(f"LlamaCloud no longer has the result of the job {job_id}")
        try:
            answer = self._ask(lambda: self._parsing.get(job_id, expand=["markdown"]), {404: lost})
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
            self._ask(lambda: self._parsing.cancel(job_id), {400: over, 404: over, 409: over})

    def bill(self, document_id: UUID, pages: int) -> VendorCall:
        """By the price list of the tier."""
        return parsing_call(self._tier, document_id, pages)

    def close(self) -> None:
        """Drop the connections."""
        self._close()

    def _ask(
        self, call: "Callable[[], APIResponse[Any]]", meanings: Mapping[int, IngestionError] = MappingProxyType({})
    ) -> dict[str, Any]:
        """The JSON object of an answer, not read by the SDK, which lets wrong types through.

        `meanings` are the HTTP errors that mean something else for this operation than they do in general.
        """
        try:
            content = call().http_response.content
        except self._sdk.APIStatusError as error:
            status = error.status_code
            special = meanings.get(status)
            raise special or refusal(status, error.body, error.response.headers, self._secrets) from error
        except self._sdk.APITimeoutError as error:
            raise VendorUnavailableError("LlamaCloud did not answer in time") from error
        except self._sdk.APIConnectionError as error:
            raise VendorUnavailableError("LlamaCloud can't be reached, or the connection broke") from error
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
