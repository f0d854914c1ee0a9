"""Runs both applications in one event loop of one process, until SIGTERM or SIGINT."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mock_services.exchange import TRANSPORT_KEY

ADDRESSES_FILE = "addresses.json"
_GRACE_SECONDS = 1


class CuttableProtocol(HttpToolsProtocol):
    """Lets the application reach its connection, so that a scripted fault can cut it."""

    def on_message_begin(self) -> None:
        """Put the transport into the scope of the request."""
        super().on_message_begin()
        self.scope[TRANSPORT_KEY] = self.transport  # type: ignore[literal-required]  # a key of our own


class QuietServer(uvicorn.Server):
    """A server that leaves the signals to whoever runs several of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. OSError where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(2048)
    listener.setblocking(False)
    return listener


async def serve(apps: dict[str, Starlette], listeners: dict[str, socket.socket], state_directory: Path) -> None:
    """Serve each application on its listener; writes their addresses into the state directory once they answer."""
    servers = {}
    for name, app in apps.items():
        config = uvicorn.Config(
            app,
            http=CuttableProtocol,
            ws="none",
            access_log=False,
            log_level="error",
            timeout_graceful_shutdown=_GRACE_SECONDS,
            timeout_keep_alive=60,
        )
        servers[name] = QuietServer(config)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    serving = [asyncio.create_task(server.serve([listeners[name]])) for name, server in servers.items()]
    stopped = asyncio.create_task(stopping.wait())
    while not all(server.started for server in servers.values()) and not any(task.done() for task in serving):
        await asyncio.sleep(0.005)
    write_addresses(state_directory, listeners)
    await asyncio.wait([*serving, stopped], return_when=asyncio.FIRST_COMPLETED)
    for server in servers.values():
        server.should_exit = True
    await asyncio.gather(*serving)
    stopped.cancel()


def write_addresses(state_directory: Path, listeners: dict[str, socket.socket]) -> None:
    """Tell whoever started this where the applications are: useful with port 0."""
    addresses = {}
    for name, listener in listeners.items():
        host, port = listener.getsockname()[:2]
        addresses[name] = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    draft = state_directory / f"{ADDRESSES_FILE}.draft"
    draft.write_text(json.dumps(addresses))
    draft.replace(state_directory / ADDRESSES_FILE)
