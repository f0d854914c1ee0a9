"""How the API is served: the limits of the connection, and a shutdown that lets requests under way end."""

import uvicorn
from fastapi import FastAPI

MAX_HEADER_BYTES = 32 * 1024
GRACE_SECONDS = 30


def server_config(app: FastAPI, host: str, port: int, *, grace_seconds: int = GRACE_SECONDS) -> uvicorn.Config:
    """The server's settings. h11 it is, because it bounds the size of a request's head; httptools doesn't."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http="h11",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ws="none",
        access_log=False,  # the app writes its own line, without query strings
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=grace_seconds,
    )
