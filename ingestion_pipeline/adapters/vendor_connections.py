"""How the adapters of HTTP vendors connect: certificates, proxies, and connections that are kept."""

import math
import os
import ssl
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from typing import NamedTuple, Protocol

import pycurl

from ingestion_pipeline.adapters.vendor_answers import LONGEST_RETRY_AFTER_SECONDS

CONNECT_SECONDS = 5.0
SLOWEST_BYTES_A_SECOND = 100_000  # of sending
BLOCK_BYTES = 1 << 19  # that is received at once: each block waits for its turn among the threads


@cache
def tls_context() -> ssl.SSLContext:
    """By which OpenAI is known, once a process: the system's certificates, or those of SSL_CERT_FILE."""
    import httpx2

    return httpx2.create_ssl_context()


class Body(Protocol):
    """What is sent, read block by block."""

    def read(self, size: int, /) -> bytes: ...


class Answer(NamedTuple):
    """Of any HTTP status; `wait_seconds` are those of its Retry-After, at most an hour."""

    status: int
    content: bytes
    wait_seconds: float | None


class Connections:
    """Requests over connections that are kept, by libcurl: a fraction of the CPU of a client in Python, and threads do
    not take turns while it is at work. Safe to use from threads.

    Certificates are the system's, or those of SSL_CERT_FILE; proxies those of `http_proxy`, `https_proxy`, `all_proxy`
    and `no_proxy`. No redirect is followed. What has a body is sent once; what has none is asked for again on a new
    connection where a kept one was closed without an answer.
    """

    def __init__(self, headers: Mapping[str, str], timeout_seconds: float) -> None:
        """A new connection has at most CONNECT_SECONDS; for `timeout_seconds`, rounded up, nothing may move."""
        self._headers = [f"{name}: {value}" for name, value in headers.items()]
        self._timeout_seconds = timeout_seconds
        self._idle: list[pycurl.Curl] = []

    def get(self, url: str) -> Answer:
        """Raises TimeoutError or ConnectionError, as post()."""
        return self._request(url, [], None, 0)

    def post(self, url: str, content_type: str, body: Body, size: int) -> Answer:
        """Send `size` bytes: until all is answered it has the timeout and what SLOWEST_BYTES_A_SECOND make of them.

        Raises TimeoutError, and ConnectionError for all else that breaks.
        """
        # Without `Expect` the server is not asked first whether it wants a large body.
        return self._request(url, [f"Content-Type: {content_type}", "Expect:"], body, size)

    def close(self) -> None:
        """Drop the connections."""
        while self._idle:
            self._idle.pop().close()

    def _request(self, url: str, headers: list[str], body: Body | None, size: int) -> Answer:
        try:
            curl = self._idle.pop()
        except IndexError:
            curl = pycurl.Curl()
        try:
            return self._perform(curl, url, self._headers + headers, body, size)
        except pycurl.error as error:
            code, reason = error.args
            kind = TimeoutError if code == pycurl.E_OPERATION_TIMEDOUT else ConnectionError
            raise kind(reason) from error
        finally:
            curl.reset()  # keeps its connection
            self._idle.append(curl)

    def _perform(self, curl: pycurl.Curl, url: str, headers: list[str], body: Body | None, size: int) -> Answer:
        content = BytesIO()
        options = {
            pycurl.URL: url,
            pycurl.HTTPHEADER: headers,
            pycurl.ACCEPT_ENCODING: "gzip",
            pycurl.WRITEDATA: content,
            pycurl.BUFFERSIZE: BLOCK_BYTES,
            pycurl.NOSIGNAL: 1,
            pycurl.CONNECTTIMEOUT_MS: int(1000 * min(CONNECT_SECONDS, self._timeout_seconds)),
            pycurl.LOW_SPEED_LIMIT: 1,  # bytes a second
            pycurl.LOW_SPEED_TIME: math.ceil(self._timeout_seconds),
        }
        if trusted := os.environ.get("SSL_CERT_FILE"):
            options[pycurl.CAINFO] = trusted
        if body is not None:
            seconds = self._timeout_seconds + size / SLOWEST_BYTES_A_SECOND
            options |= {pycurl.POST: 1, pycurl.POSTFIELDSIZE_LARGE: size, pycurl.READDATA: body}
            options[pycurl.TIMEOUT_MS] = int(1000 * seconds)
        for option, value in options.items():
            curl.setopt(option, value)
        curl.perform()
        wait_seconds = min(float(curl.getinfo(pycurl.RETRY_AFTER)), LONGEST_RETRY_AFTER_SECONDS)
        return Answer(curl.getinfo(pycurl.RESPONSE_CODE), content.getvalue(), wait_seconds or None)
