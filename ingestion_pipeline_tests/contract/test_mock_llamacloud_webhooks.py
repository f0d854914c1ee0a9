"""Webhooks of the mock LlamaCloud, as a receiver of the tests' own sees them."""

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from llama_cloud import LlamaCloud

from mock_services.process import MockServices, start_mock_services

SECRET = "a shared secret"
RETRY_SECONDS = (0.2, 0.4)


@dataclass
class Delivery:
    """One attempt: when, what, and whether the create call had been answered by then."""

    moment: float
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        decoded = json.loads(self.body)
        return json.loads(decoded) if isinstance(decoded, str) else decoded


@dataclass
class Receiver:
    """Answers with the scripted statuses, then 204; keeps every attempt."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)

    def wait_for(self, count: int, seconds: float = 10) -> list[Delivery]:
        wait_until(lambda: len(self.deliveries) >= count, seconds)
        return self.deliveries


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    received = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.deliveries.append(Delivery(time.monotonic(), dict(self.headers.items()), body))
            self.send_response(received.statuses.pop(0) if received.statuses else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received.url = f"http://127.0.0.1:{server.server_port}/hook"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield received
        server.shutdown()


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    directory = tmp_path_factory.mktemp("mock")
    with start_mock_services(directory, vectors="instant", webhook_retry_seconds=RETRY_SECONDS) as running:
        yield running


@pytest.fixture(autouse=True)
def no_faults_left(services: MockServices) -> Iterator[None]:
    services.control("llamacloud", "POST", "reset")
    yield


@pytest.fixture(scope="module")
def client(services: MockServices) -> LlamaCloud:
    return LlamaCloud(api_key="llx-test", base_url=services.llamacloud_url, max_retries=0)


def submit(client: LlamaCloud, receiver: Receiver, name: str = "note.md", **webhook: Any) -> str:
    file = client.files.create(file=(name, b"# Note"), purpose="parse")
    entry = {
        "webhook_url": receiver.url,
        "webhook_events": ["parse.success", "parse.error", "parse.partial_success", "parse.cancelled"],
        "webhook_output_format": "json",
        "webhook_signing_secret": SECRET,
    }
    return client.parsing.create(
        tier="agentic",
        version="latest",
        file_id=file.id,
        webhook_configurations=[{**entry, **webhook}],  # type: ignore[typeddict-item]
    ).id


def signature(body: bytes) -> str:
    return "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


def counted(services: MockServices) -> dict[str, int]:
    counts: dict[str, int] = services.control("llamacloud", "GET", "calls")["webhooks"]
    return counts


def test_a_finished_job_is_announced_once_thinly_and_signed(client: LlamaCloud, receiver: Receiver) -> None:
    before = time.time()
    job_id = submit(client, receiver, webhook_headers={"X-Tenant": "seven"})
    (delivery,) = receiver.wait_for(1)
    assert delivery.event == {
        "event_id": delivery.headers["X-Webhook-Event-ID"],
        "event_type": "parse.success",
        "timestamp": delivery.event["timestamp"],
        "data": {"id": job_id, "job_id": job_id},
    }
    assert before <= delivery.event["timestamp"] <= time.time()
    assert delivery.headers["LC-Signature"] == signature(delivery.body)
    assert delivery.headers["X-Webhook-Event-Type"] == "parse.success"
    assert delivery.headers["User-Agent"] == "llamaindex-webhook-service/1.0"
    assert delivery.headers["X-Tenant"] == "seven"
    assert client.parsing.get(job_id).job.status == "COMPLETED"


def test_the_default_format_is_a_json_string_that_holds_json(client: LlamaCloud, receiver: Receiver) -> None:
    submit(client, receiver, webhook_output_format=None)
    (delivery,) = receiver.wait_for(1)
    assert isinstance(json.loads(delivery.body), str)
    assert delivery.event["event_type"] == "parse.success"
    assert delivery.headers["LC-Signature"] == signature(delivery.body)


def test_without_a_secret_there_is_no_signature(client: LlamaCloud, receiver: Receiver) -> None:
    submit(client, receiver, webhook_signing_secret=None)
    assert "LC-Signature" not in receiver.wait_for(1)[0].headers


def test_without_a_choice_of_events_all_of_them_are_sent(client: LlamaCloud, receiver: Receiver) -> None:
    submit(client, receiver, webhook_events=None)
    events = {delivery.event["event_type"] for delivery in receiver.wait_for(3)}
    assert events == {"parse.pending", "parse.running", "parse.success"}


def test_failure_partial_success_and_cancelling_have_events_of_their_own(
    services: MockServices, client: LlamaCloud, receiver: Receiver
) -> None:
    services.script("llamacloud", "job_failure", code="PDF_IS_BROKEN", match="bad.md")
    services.script("llamacloud", "partial", match="half.md")
    services.script("llamacloud", "never_finish", match="stuck.md")
    bad, half, stuck = (submit(client, receiver, name) for name in ("bad.md", "half.md", "stuck.md"))
    client.parsing.cancel(stuck)
    events = {delivery.event["data"]["job_id"]: delivery.event["event_type"] for delivery in receiver.wait_for(3)}
    assert events == {bad: "parse.error", half: "parse.partial_success", stuck: "parse.cancelled"}


def test_a_refused_delivery_is_attempted_three_times_and_never_again(
    services: MockServices, client: LlamaCloud, receiver: Receiver
) -> None:
    receiver.statuses = [500, 404, 302, 200]
    submit(client, receiver)
    wait_until(lambda: counted(services).get("given_up") == 1)
    first, second, third = receiver.deliveries
    assert {delivery.body for delivery in receiver.deliveries} == {first.body}
    assert second.moment - first.moment >= RETRY_SECONDS[0]
    assert third.moment - second.moment >= RETRY_SECONDS[1]
    assert counted(services) == {"attempts": 3, "given_up": 1}


def test_a_delivery_that_is_accepted_at_last_is_not_repeated(
    services: MockServices, client: LlamaCloud, receiver: Receiver
) -> None:
    receiver.statuses = [503]
    submit(client, receiver)
    wait_until(lambda: counted(services).get("delivered") == 1)
    assert counted(services) == {"attempts": 2, "delivered": 1}
    assert len(receiver.deliveries) == 2


def test_a_receiver_that_is_down_loses_the_event(services: MockServices, client: LlamaCloud) -> None:
    submit(client, Receiver(url="http://127.0.0.1:1/hook"))
    wait_until(lambda: counted(services).get("given_up") == 1)
    assert counted(services) == {"attempts": 3, "given_up": 1}


def test_a_lost_webhook_leaves_the_job_to_be_found_by_polling(
    services: MockServices, client: LlamaCloud, receiver: Receiver
) -> None:
    services.script("llamacloud", "webhook_lost")
    job_id = submit(client, receiver)
    wait_until(lambda: counted(services).get("lost") == 1)
    assert receiver.deliveries == []
    assert client.parsing.get(job_id).job.status == "COMPLETED"


def test_a_late_webhook_comes_after_its_delay(services: MockServices, client: LlamaCloud, receiver: Receiver) -> None:
    services.script("llamacloud", "webhook_late", seconds=0.5)
    job_id = submit(client, receiver)
    wait_until(lambda: client.parsing.get(job_id).job.status == "COMPLETED")
    completed = time.monotonic()
    assert receiver.deliveries == []
    (delivery,) = receiver.wait_for(1)
    assert delivery.moment - completed > 0.3


def test_a_doubled_webhook_has_one_event_id(services: MockServices, client: LlamaCloud, receiver: Receiver) -> None:
    services.script("llamacloud", "webhook_doubled")
    submit(client, receiver)
    first, second = receiver.wait_for(2)
    assert first.event["event_id"] == second.event["event_id"]
    assert first.body == second.body


def test_a_wrongly_signed_webhook_does_not_verify(
    services: MockServices, client: LlamaCloud, receiver: Receiver
) -> None:
    services.script("llamacloud", "webhook_wrongly_signed")
    submit(client, receiver)
    (delivery,) = receiver.wait_for(1)
    assert delivery.headers["LC-Signature"].startswith("sha256=")
    assert delivery.headers["LC-Signature"] != signature(delivery.body)


def test_an_early_webhook_arrives_before_the_create_call_returns(
    services: MockServices, client: LlamaCloud, receiver: Receiver
) -> None:
    services.script("llamacloud", "webhook_early")
    job_id = submit(client, receiver)
    returned = time.monotonic()
    (delivery,) = receiver.deliveries
    assert delivery.moment < returned
    assert delivery.event["data"]["job_id"] == job_id
