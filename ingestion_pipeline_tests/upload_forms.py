"""Multipart forms made by hand, for what HTTP clients would not send, and what an upload may leave behind."""

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

from conftest import DatabaseUrls
from running_api import KEY, RunningApi, rows

TEXT = "# Notes\n\nGrüße aus dem Norden.\n".encode()
BOUNDARY = "a-boundary"
NAMED = 'Content-Disposition: form-data; name="file"; filename="notes.md"\r\n'


def form(*parts: bytes, end: bytes = b"--\r\n") -> bytes:
    """A multipart body of parts that begin with their headers."""
    delimiter = b"--" + BOUNDARY.encode()
    return b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts) + delimiter + end


def part(content: bytes = TEXT, headers: str = NAMED) -> bytes:
    return headers.encode() + b"\r\n" + content


def post(
    api: RunningApi, body: bytes | Iterator[bytes], content_type: str = f"multipart/form-data; boundary={BOUNDARY}"
) -> Any:
    return api.request("POST", "/documents", data=body, headers={"Content-Type": content_type})


def connected(api: RunningApi, length: int, key: str = KEY) -> Any:
    """A connection that has sent the head of an upload."""
    connection = socket.create_connection(api.address, timeout=20)
    connection.sendall(
        f"POST /documents HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
    )
    return closing(connection)


def draft_files(api: RunningApi) -> list[str]:
    return [path.name for path in (api.folder / ".drafts").iterdir()]


def assert_nothing_is_left(api: RunningApi, database_urls: DatabaseUrls) -> None:
    api.wait_until_idle()
    assert api.objects() == []
    assert rows(database_urls.owner, "select count(*) from upload_pipeline.documents") == [(0,)]
    assert UUID(api.request("GET", "/healthz").headers["X-Correlation-ID"])
