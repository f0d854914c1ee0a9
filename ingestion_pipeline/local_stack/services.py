"""What the supervisor is told about a service, and the ways to ask whether a service is ready."""

import http.client
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from ingestion_pipeline.errors import ConfigurationError

CHECK_TIMEOUT_SECONDS = 2.0
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Service:
    """One long-running program.

    `environment` is added to the supervisor's own. `ready` is a callable that returns True once the service can be
    used, or an address of this service alone: `http://` (answers with a status below 400) or `tcp://host:port` (accepts
    connections), or None: then being started is being ready. `ready_timeout` and `stop_timeout` are in seconds. `after`
    names the services that must be ready first: by default all that stand earlier in the list, with () none.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    ready: Callable[[], bool] | str | None = None
    ready_timeout: float = 60.0
    stop_timeout: float = 10.0
    after: tuple[str, ...] | None = None
    working_directory: Path | None = None


def prerequisites(services: Sequence[Service]) -> dict[str, tuple[str, ...]]:
    """Return for each service the names of those that must be ready before it, in the order of the list.

    Raises ConfigurationError for bad or repeated names, for `after` that points anywhere but to an earlier service, for
    an empty command and for an address that isn't understood.
    """
    result: dict[str, tuple[str, ...]] = {}
    for service in services:
        if not NAME_PATTERN.fullmatch(service.name):
            raise ConfigurationError(f"The service name {service.name!r} must be of a-z, 0-9, - and _.")
        if service.name in result:
            raise ConfigurationError(f"Two services are named {service.name!r}.")
        if not service.command:
            raise ConfigurationError(f"The service {service.name!r} has no command.")
        after = tuple(result) if service.after is None else service.after
        unknown = [name for name in after if name not in result]
        if unknown:
            raise ConfigurationError(
                f"{service.name!r} is to start after {unknown}: name services that stand before it."
            )
        ready_address(service)
        result[service.name] = after
    return result


def ready_address(service: Service) -> SplitResult | None:
    """Return the address that `service` is asked at, None if it has none. Raises ConfigurationError."""
    if not isinstance(service.ready, str):
        return None
    try:
        address = urlsplit(service.ready)
        understood = address.scheme in ("http", "tcp") and address.hostname is not None
        understood = understood and (address.scheme == "http" or address.port is not None)
    except ValueError:
        understood = False
    if not understood:
        raise ConfigurationError(
            f"The service {service.name!r} can't be asked at {service.ready!r}: give http://host:port/path or tcp://host:port."
        )
    return address


def accepts_connections(address: SplitResult) -> bool:
    """Tell whether anybody listens at the host and port of `address`."""
    try:
        with socket.create_connection((address.hostname or "", address.port or 80), timeout=CHECK_TIMEOUT_SECONDS):
            return True
    except OSError:
        return False


def _answers(address: SplitResult) -> bool:
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 80, timeout=CHECK_TIMEOUT_SECONDS)
    target = (address.path or "/") + (f"?{address.query}" if address.query else "")
    try:
        connection.request("GET", target)
        status = connection.getresponse().status
        if status >= 400:
            raise ConnectionError(f"{address.geturl()} answered with status {status}")
        return True
    finally:
        connection.close()


class ReadinessCheck:
    """Asks one service again and again, never more than one question at a time, without making the asker wait."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._thread: threading.Thread | None = None
        self._is_ready = service.ready is None
        self.last_error = ""

    def is_ready(self) -> bool:
        """Return the answer known so far, and see to it that the next question is under way."""
        if not self._is_ready and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._ask, name=f"ready-{self._service.name}", daemon=True)
            self._thread.start()
        return self._is_ready

    def _ask(self) -> None:
        try:
            if callable(self._service.ready):
                self._is_ready = self._service.ready()
            elif (address := ready_address(self._service)) is not None:
                self._is_ready = accepts_connections(address) if address.scheme == "tcp" else _answers(address)
        except Exception as error:  # noqa: BLE001  whatever a check stumbles over means "not yet"; the timeout reports it
            self.last_error = f"{type(error).__name__}: {error}"
