"""How the command line talks to the HTTP API: where it is, the bearer key, uploads streamed from disk, errors in words.

A refusal is an ApiRefusedError with the API's own code and reason. What may pass by itself (a lost connection, 503) is
an ApiUnavailableError; `with_retries` repeats such calls a bounded number of times.
"""

import ipaddress
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlsplit

import requests
from requests.auth import AuthBase
from requests_toolbelt import MultipartEncoder, MultipartEncoderMonitor

from ingestion_pipeline.errors import ConfigurationError, IngestionError, NotFoundError, TransientError
from ingestion_pipeline.settings import Settings, load_settings

CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 60.0
ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
PAGE = 200
UNAVAILABLE_STATUSES = frozenset({408, 429, 503, 504})

Result = TypeVar("Result")
Record = dict[str, Any]  # an object of the API's JSON


class ApiRefusedError(IngestionError):
    """The API refused a request; the code and the message are its own, the remedy included."""

    code = "api_refused"


class ApiUnavailableError(TransientError):
    """The API can't be reached or is not ready."""

    code = "api_unavailable"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The API's answer to an upload: the document as it is now, and whether it is new to the API."""

    document: Record
    is_new: bool


class BearerKey(AuthBase):
    """Puts the key into a request's header, and nowhere else: it doesn't appear in messages or representations."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class ApiClient:
    """One API under one key. Threads may share it: each gets a session of its own."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._auth = BearerKey(key)
        self._local = threading.local()

    def upload(self, path: Path, on_bytes: Callable[[int], None]) -> Accepted:
        """Send a file; `on_bytes` gets the number of bytes read since its last call. Raises OSError as well."""
        with path.open("rb") as opened:
            monitor = _multipart(_sendable_name(path), opened, on_bytes)
            response = self._send("POST", "/documents", data=monitor, headers={"Content-Type": monitor.content_type})
        return Accepted(response.json(), is_new=response.status_code == requests.codes.created)

    def known(self, sha256: Sequence[str]) -> dict[str, Record]:
        """The documents of those contents, by SHA-256 in hexadecimal, that are there already; at most 100."""
        found = self._get_part("/documents/lookup", "documents", sha256=list(sha256)) if sha256 else []
        return {document["sha256"]: document for document in found}

    def document(self, document_id: str) -> Record:
        """One document: state, progress, last error, the newest entries of its history. Raises NotFoundError."""
        return self._get(f"/documents/{quote(document_id, safe='')}")

    def documents(self, *, state: str | None, limit: int) -> list[Record]:
        """The latest documents, newest first; at most 200."""
        return list(self._get_part("/documents", "documents", limit=limit, state=state))

    def each_document(
        self, *, states: Sequence[str] = (), code: str | None = None, has_error: bool | None = None
    ) -> Iterator[Record]:
        """All documents in one of the states, with an error of this code, and with or without one: newest first."""
        cursor: str | None = None
        while True:
            filters = {"state": list(states), "code": code, "has_error": has_error}
            page = with_retries(partial(self._get, "/documents", limit=PAGE, cursor=cursor, **filters))
            if "documents" not in page:
                raise self._foreign()
            yield from page["documents"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def retry(self, document_id: str, *, start_over: bool) -> Record:
        """Take a document up again; returns it. Raises NotFoundError, and ApiRefusedError `not_retryable`."""
        return self._act(document_id, "retry", start_over=start_over)

    def cancel(self, document_id: str) -> Record:
        """Stop the work on a document; returns it. Raises NotFoundError, and ApiRefusedError `not_cancellable`."""
        return self._act(document_id, "cancel")

    def counts(self) -> dict[str, int]:
        """How many documents are in each state."""
        return dict(self._get_part("/documents/summary", "states"))

    def usage(self, *, first: str | None, last: str | None) -> Record:
        """What was bought, by day; the days in ISO format."""
        return self._get("/usage", **{"from": first, "to": last})

    def vendors(self) -> Record:
        """How the vendors are, and what is left of rate limits and budgets."""
        report = self._get("/vendors")
        if not {"vendors", "budgets"} <= report.keys():
            raise self._foreign()
        return report

    def search(self, query: str, *, limit: int) -> list[Record]:
        """The chunks nearest to a query, best first; at most 100."""
        return list(self._get_part("/search", "results", q=query, limit=limit))

    def _act(self, document_id: str, action: str, **parameters: bool) -> Record:
        document: Record = self._send(
            "POST", f"/documents/{quote(document_id, safe='')}/{action}", params=parameters
        ).json()
        return document

    def _get(self, path: str, **parameters: str | int | list[str] | None) -> Record:
        given = {name: value for name, value in parameters.items() if value is not None}
        answer = self._send("GET", path, params=given).json()
        if not isinstance(answer, dict):
            raise self._foreign()
        return answer

    def _get_part(self, path: str, part: str, **parameters: str | int | list[str] | None) -> Any:
        answer = self._get(path, **parameters)
        if part not in answer:
            raise self._foreign()
        return answer[part]

    def _foreign(self) -> ConfigurationError:
        return ConfigurationError(f"What answers at {self.url} is not the API: check INGEST_API_URL.")

    def _send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        timeout = (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
        try:
            response = self._session().request(
                method, f"{self.url}{path}", timeout=timeout, allow_redirects=False, **arguments
            )
        except requests.Timeout:
            raise ApiUnavailableError(f"The API at {self.url} did not answer in time.") from None
        except requests.ConnectionError as error:
            raise ApiUnavailableError(
                f"The API at {self.url} can't be reached: {_root_cause(error)}. Start the stack with `ingest up`."
            ) from None
        except requests.RequestException as error:
            raise ConfigurationError(f"{self.url!r} is no address of the API: {error}") from None
        if not requests.codes.ok <= response.status_code < requests.codes.multiple_choices:
            raise refusal(response)
        if "json" not in response.headers.get("Content-Type", ""):
            raise self._foreign()
        return response

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.auth = self._auth
            session.trust_env = not _is_loopback(self.url)  # a proxy would ask its own loopback
        return session


def connect(settings: Settings | None = None) -> ApiClient:
    """A client for the API of the settings, or of the stack that `ingest up` last started with the same data folder.

    Raises ConfigurationError if neither says where the API is or what the key is.
    """
    settings = settings or load_settings()
    url = settings.api_url or _stack_url(settings.data_dir / "stack.json")
    if url is None:
        raise ConfigurationError(
            "It is not known where the API is: start the stack with `ingest up`, "
            "or set INGEST_API_URL and INGEST_API_KEY."
        )
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigurationError(f"INGEST_API_URL must look like http://host:port, not like {url!r}.")
    key_file = settings.data_dir / "keys" / "api_key"
    if settings.api_key is not None:
        return ApiClient(url, settings.api_key.get_secret_value())
    try:
        return ApiClient(url, key_file.read_text().strip())
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no API key in {key_file}: start the stack with `ingest up`, or set INGEST_API_KEY."
        ) from None
    except OSError as error:
        raise ConfigurationError(f"The API key in {key_file} can't be read: {error.strerror}.") from None


def with_retries(
    call: Callable[[], Result], *, attempts: int = ATTEMPTS, pause: Callable[[float], object] = time.sleep
) -> Result:
    """The result of `call`, repeated after an ApiUnavailableError: after growing pauses, or when the API asks to."""
    for attempt in range(attempts - 1):
        try:
            return call()
        except ApiUnavailableError as error:
            wished = error.retry_after_seconds
            seconds = FIRST_PAUSE_SECONDS * 2**attempt if wished is None else wished
            pause(min(seconds, LONGEST_PAUSE_SECONDS))
    return call()


def refusal(response: requests.Response) -> IngestionError:
    """What a response that is no success means. A 502 without a code comes from a gateway before the API."""
    problem = _problem(response)
    status, code = response.status_code, problem.get("code")
    words: list[str | None] = [problem.get("detail") or f"The API answered with status {status}", problem.get("remedy")]
    if status >= requests.codes.server_error and "correlation_id" in problem:
        words.append(f"Its correlation id is {problem['correlation_id']}")
    message = sentences(*words)
    if status in UNAVAILABLE_STATUSES or (status == requests.codes.bad_gateway and code is None):
        return ApiUnavailableError(message, code=code, retry_after_seconds=_retry_after(response))
    if code == NotFoundError.code:
        return NotFoundError(message)
    return ApiRefusedError(message, code=code)


def sentences(*texts: str | None) -> str:
    """The texts one after the other, each with an end; those without a word are left out."""
    stripped = (text.strip() for text in texts if text)
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in stripped if text)


def _problem(response: requests.Response) -> Record:
    try:
        problem = response.json()
    except requests.JSONDecodeError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _retry_after(response: requests.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):  # absent, or a date, which the API does not send
        return None


def _stack_url(file: Path) -> str | None:
    try:
        return str(json.loads(file.read_text())["api_url"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{file} can't be read: start the stack anew with `ingest up`.") from None


def _sendable_name(path: Path) -> str:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise ApiRefusedError("The file name is not valid Unicode: rename the file.", code="invalid_filename") from None
    return path.name


def _multipart(name: str, opened: BinaryIO, on_bytes: Callable[[int], None]) -> MultipartEncoderMonitor:
    """The body of an upload, read from disk while it is sent. The API tells the type by the name and the bytes."""
    reported = 0

    def report(monitor: MultipartEncoderMonitor) -> None:
        nonlocal reported
        on_bytes(monitor.bytes_read - reported)
        reported = monitor.bytes_read

    encoder = MultipartEncoder({"file": (name, opened, "application/octet-stream")})
    return MultipartEncoderMonitor(encoder, report)


def _root_cause(error: BaseException) -> str:
    """The operating system's word for what is at the bottom of a chain of exceptions, e.g. `Connection refused`."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return "connection lost"


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
