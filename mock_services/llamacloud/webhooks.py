"""Webhook deliveries: thin events, signed, three attempts; what is not delivered then is lost, as with the vendor."""

import asyncio
import hashlib
import hmac
import json
import time
from collections import Counter
from uuid import uuid4

import httpx

from mock_services.calls import CallCounter
from mock_services.faults import FaultBook, Kind, Stage
from mock_services.llamacloud.jobs import Job, Webhook

OPERATION = "send_webhook"
EVENTS = ("parse.pending", "parse.running", "parse.success", "parse.error", "parse.partial_success", "parse.cancelled")
DELIVERY_TIMEOUT_SECONDS = 30.0


def sign(secret: str, body: bytes) -> str:
    """The value of `LC-Signature`: HMAC-SHA256 of the raw body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def render(event: dict[str, object], output_format: str) -> bytes:
    """The raw body: a JSON object, or, as `string`, a JSON string that holds it."""
    text = json.dumps(event, separators=(",", ":"))
    return (text if output_format == "json" else json.dumps(text)).encode()


class WebhookSender:
    """Sends the events of jobs to those who asked for them."""

    def __init__(self, faults: FaultBook, calls: CallCounter, retry_delays: tuple[float, ...]) -> None:
        self._faults = faults
        self._calls = calls
        self._retry_delays = retry_delays
        self._client = httpx.AsyncClient(timeout=DELIVERY_TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Drop the connections."""
        await self._client.aclose()

    async def announce(self, job: Job, event_type: str) -> None:
        """Deliver one event of a job; returns when each receiver has it or is given up."""
        wanted = [webhook for webhook in job.webhooks if webhook.events is None or event_type in webhook.events]
        await asyncio.gather(*(self._deliver(job, event_type, webhook) for webhook in wanted))

    async def _deliver(self, job: Job, event_type: str, webhook: Webhook) -> None:
        outcomes = self._calls.webhooks
        faults = {
            fault.kind: fault
            for fault in self._faults.take(Stage.WEBHOOK, OPERATION, [*job.subjects(), event_type, webhook.url])
        }
        if Kind.WEBHOOK_LOST in faults:
            outcomes["lost"] += 1
            return
        if Kind.WEBHOOK_LATE in faults:
            await asyncio.sleep(faults[Kind.WEBHOOK_LATE].seconds or 0)
        event_id = f"evt-{uuid4()}"
        event: dict[str, object] = {
            "event_id": event_id,
            "event_type": event_type,
            "timestamp": time.time(),
            "data": {"id": job.id, "job_id": job.id},
        }
        body = render(event, webhook.output_format)
        headers = webhook.headers | {
            "Content-Type": "application/json",
            "User-Agent": "llamaindex-webhook-service/1.0",
            "X-Webhook-Event-ID": event_id,
            "X-Webhook-Event-Type": event_type,
        }
        if webhook.signing_secret:
            wrong = "wrong " if Kind.WEBHOOK_WRONGLY_SIGNED in faults else ""
            headers["LC-Signature"] = sign(wrong + webhook.signing_secret, body)
        for _ in range(2 if Kind.WEBHOOK_DOUBLED in faults else 1):
            await self._attempt_until_delivered(webhook.url, body, headers, outcomes)

    async def _attempt_until_delivered(
        self, url: str, body: bytes, headers: dict[str, str], outcomes: Counter[str]
    ) -> None:
        for delay in (*self._retry_delays, None):
            outcomes["attempts"] += 1
            if await self._attempt(url, body, headers):
                outcomes["delivered"] += 1
                return
            if delay is not None:
                await asyncio.sleep(delay)
        outcomes["given_up"] += 1

    async def _attempt(self, url: str, body: bytes, headers: dict[str, str]) -> bool:
        try:
            async with asyncio.timeout(DELIVERY_TIMEOUT_SECONDS):
                response = await self._client.post(url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError):
            return False
        return response.is_success
