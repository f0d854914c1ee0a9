"""What the LlamaCloud adapter sends, held against what the vendor's own SDK sends for the same operations."""

import gzip
import json
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from llama_cloud import LlamaCloud
from parsers_under_test import KEY, SECRET, TEXT, LoopbackServer, Quiet, request_for

from ingestion_pipeline.adapters.llamacloud import FIND_PAGE_SIZE, LlamaCloudParser
from ingestion_pipeline.errors import VendorRejectedError, VendorUnavailableError
from mock_services.process import MockServices, start_mock_services

JOB = {"id": "pjb-1", "project_id": "p-1", "status": "COMPLETED"}
ANSWER = {**JOB, "job": JOB, "items": [], "markdown": {"pages": [{"page_number": 1, "markdown": TEXT}]}}
WEBHOOK = "http://127.0.0.1:9/webhooks/llamaparse"
DOCUMENT, CORRELATION = UUID(int=1), UUID(int=2)
Sent = tuple[str, str, dict[str, list[str]], str | None, Any]


class Recorder(LoopbackServer):
    """Answers every request in one way and keeps method, path, query, credentials and body of each."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.headers: dict[str, str] = {}
        self.location = ""
        self.is_compressing = False
        recorder = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                url = urlsplit(self.path)
                told = read_body(self.headers.get("Content-Type", ""), body)
                recorder.headers = {name.lower(): value for name, value in self.headers.items()}
                recorder.sent.append((self.command, url.path, parse_qs(url.query), self.headers["Authorization"], told))
                said = json.dumps(ANSWER).encode()
                if recorder.is_compressing:
                    said = gzip.compress(said)
                self.send_response(307 if recorder.location else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                if recorder.is_compressing:
                    self.send_header("Content-Encoding", "gzip")
                if recorder.location:
                    self.send_header("Location", recorder.location)
                self.end_headers()
                self.wfile.write(said)

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

        super().__init__(Handler)


def read_body(content_type: str, body: bytes) -> Any:
    """JSON, or the parts of a form by their names: content type, file name and content."""
    if not content_type.startswith("multipart/"):
        return json.loads(body) if body else None
    form = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body, policy=HTTP)
    return {
        part.get_param("name", header="content-disposition"): (
            part.get("Content-Type"),
            part.get_filename(),
            part.get_payload(decode=True),
        )
        for part in form.iter_parts()  # type: ignore[attr-defined]  # of an EmailMessage
    }


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    with recorder.serving():
        yield recorder


def parser_at(url: str) -> LlamaCloudParser:
    return LlamaCloudParser(KEY, url, WEBHOOK, SECRET, timeout_seconds=10.0)


def create_by_sdk(sdk: LlamaCloud) -> None:
    file = sdk.files.create(file=("contract.md", TEXT.encode(), "text/markdown"), purpose="parse")
    sdk.parsing.create(
        tier="cost_effective",
        version="latest",
        file_id=file.id,
        user_metadata={"document_id": str(DOCUMENT), "correlation_id": str(CORRELATION), "attempt": "1"},
        webhook_configurations=[
            {
                "webhook_url": WEBHOOK,
                "webhook_events": ["parse.success", "parse.error", "parse.partial_success", "parse.cancelled"],
                "webhook_output_format": "json",
                "webhook_signing_secret": SECRET,
            }
        ],
    )


OPERATIONS: dict[str, tuple[Callable[[LlamaCloudParser], Any], Callable[[LlamaCloud], Any]]] = {
    "submit": (
        lambda parser: parser.submit(request_for(document_id=DOCUMENT, correlation_id=CORRELATION)),
        create_by_sdk,
    ),
    "find": (lambda parser: parser.find(DOCUMENT, 1), lambda sdk: sdk.parsing.list(page_size=FIND_PAGE_SIZE)),
    "status": (lambda parser: parser.status("pjb-1"), lambda sdk: sdk.parsing.get("pjb-1")),
    "pages": (lambda parser: parser.pages("pjb-1"), lambda sdk: sdk.parsing.get("pjb-1", expand=["markdown"])),
    "odd id": (lambda parser: parser.status("a b/ü?"), lambda sdk: sdk.parsing.get("a b/ü?")),
    "cancel": (lambda parser: parser.cancel("pjb-1"), lambda sdk: sdk.parsing.cancel("pjb-1")),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_sends_what_the_vendors_sdk_sends(recorder: Recorder, operation: str) -> None:
    ours, theirs = OPERATIONS[operation]
    parser = parser_at(f"{recorder.url}/")
    ours(parser)
    sent, recorder.sent = recorder.sent, []
    with LlamaCloud(api_key=KEY, base_url=recorder.url, max_retries=0) as sdk:
        theirs(sdk)
    assert sent
    assert sorted_events(sent) == sorted_events(recorder.sent)
    parser.close()


def sorted_events(sent: list[Sent]) -> list[Sent]:
    """With the webhook's events, whose order says nothing, in one order."""
    for *_, body in sent:
        for webhook in (body or {}).get("webhook_configurations", []):
            webhook["webhook_events"].sort()
    return sent


def test_a_redirect_is_an_error_and_the_key_is_sent_nowhere_else(recorder: Recorder) -> None:
    with Recorder() as other:
        recorder.location = f"{other.url}/api/v2/parse/pjb-1"
        with pytest.raises(VendorRejectedError, match=r"307: .* is the base URL right") as caught:
            parser_at(recorder.url).submit(request_for())
    assert caught.value.code == "parser_not_found"
    assert len(recorder.sent) == 1


def test_an_answer_may_be_compressed(recorder: Recorder) -> None:
    recorder.is_compressing = True
    assert parser_at(recorder.url).status("pjb-1").job_id == "pjb-1"
    assert recorder.headers["accept-encoding"] == "gzip"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    with start_mock_services(tmp_path_factory.mktemp("mock"), vectors="instant") as services:
        yield services


@pytest.mark.parametrize("scheme", ["http://user:word@", ""])
def test_the_proxy_that_the_environment_names_is_asked_but_for_hosts_that_it_excepts(
    recorder: Recorder, services: MockServices, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("http_proxy", f"{scheme}{recorder.url.removeprefix('http://')}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(VendorRejectedError, match="401"):
        LlamaCloudParser("not-a-key", services.llamacloud_url, WEBHOOK, SECRET).status("pjb-1")
    assert recorder.sent == []
    assert parser_at("http://cloud.example").status("pjb-1").job_id == "pjb-1"
    assert [path for _, path, *_ in recorder.sent] == ["/api/v2/parse/pjb-1"]
    assert recorder.headers["host"] == "cloud.example"
    assert recorder.headers.get("proxy-authorization") == ("Basic dXNlcjp3b3Jk" if scheme else None)


def test_a_server_is_known_by_its_certificate(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    recorder.socket = context.wrap_socket(recorder.socket, server_side=True)
    address = f"https://localhost:{recorder.server_address[1]}"
    with pytest.raises(VendorUnavailableError, match="can't be reached"):
        parser_at(address).status("pjb-1")
    assert recorder.sent == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert parser_at(address).status("pjb-1").job_id == "pjb-1"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate of `localhost` that nobody knows, and its key."""
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder(name, name, secret.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(secret, hashes.SHA256())
    )
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    key.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
def test_a_proxy_that_is_away_is_an_outage(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("http_proxy", f"{scheme}://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(VendorUnavailableError, match="can't be reached"):
        parser_at("http://cloud.example").status("pjb-1")
