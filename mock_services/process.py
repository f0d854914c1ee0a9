"""Starts both services as a child process and waits until they answer; for tests and supervisors."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from mock_services.servers import ADDRESSES_FILE

Service = Literal["llamacloud", "openai"]


class MockServicesError(RuntimeError):
    """The services did not start; the message ends with what the process wrote."""


@dataclass
class MockServices:
    """The running process. As a context manager it stops the process at the end."""

    process: subprocess.Popen[bytes]
    state_directory: Path
    options: dict[str, Any] = field(repr=False)
    llamacloud_url: str
    openai_url: str
    """The OpenAI application's root; an OpenAI client's base URL is `openai_base_url`."""

    @property
    def openai_base_url(self) -> str:
        """What the OpenAI client takes as `base_url`."""
        return f"{self.openai_url}/v1"

    def stop(self, timeout: float = 10.0) -> int:
        """Stop cleanly by SIGTERM and return the exit status; killed if that takes longer than `timeout` seconds."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()

    def kill(self) -> None:
        """Kill by SIGKILL: nothing is tidied up."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def restart(self) -> "MockServices":
        """Start again on the same ports and state after stop() or kill()."""
        ports = {
            "llamacloud_port": int(self.llamacloud_url.rpartition(":")[2]),
            "openai_port": int(self.openai_url.rpartition(":")[2]),
        }
        return start_mock_services(self.state_directory, **(self.options | ports))

    def script(self, service: Service, kind: str, **fields: Any) -> dict[str, Any]:
        """Script a fault: operation, match, times and skip say when, all other fields belong to the fault itself."""
        when = {name: fields.pop(name) for name in ("operation", "match", "times", "skip") if name in fields}
        answer: dict[str, Any] = self.control(service, "POST", "faults", when | {"fault": {"kind": kind, **fields}})
        return answer

    def control(self, service: Service, method: str, path: str, body: Any = None) -> Any:
        """Call a control endpoint, e.g. `("openai", "GET", "calls")`, and return its JSON."""
        root = self.llamacloud_url if service == "llamacloud" else self.openai_url
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{root}/_control/{path}", data, method=method)  # noqa: S310  our own URL
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            answer = response.read()
        return json.loads(answer) if answer else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_mock_services(state_directory: Path, *, startup_timeout: float = 60.0, **options: Any) -> MockServices:
    """Start the services on free loopback ports and wait until both answer.

    Options are those of the command with underscores, e.g. `vectors="instant"`, `webhook_retry_seconds=[0.1, 0.2]`,
    `enforce_rate_limits=True`. MockServicesError if they do not answer within `startup_timeout` seconds.
    """
    state_directory.mkdir(parents=True, exist_ok=True)
    addresses = state_directory / ADDRESSES_FILE
    addresses.unlink(missing_ok=True)
    command = [sys.executable, "-m", "mock_services", "--state-dir", str(state_directory), *_arguments(options)]
    log_path = state_directory / "mock_services.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + startup_timeout
    while time.monotonic() < deadline and process.poll() is None:
        if addresses.exists():
            urls = json.loads(addresses.read_text())
            if all(_answers(url) for url in urls.values()):
                return MockServices(process, state_directory, options, urls["llamacloud"], urls["openai"])
        time.sleep(0.02)
    if process.poll() is None:
        process.kill()
    process.wait()
    raise MockServicesError(f"the mock services did not start: {log_path.read_text()[-2000:]}")


def _arguments(options: dict[str, Any]) -> list[str]:
    arguments = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            arguments.append(flag)
        elif isinstance(value, list | tuple):
            arguments += [flag, *map(str, value)]
        elif value is not False:
            arguments += [flag, str(value)]
    return arguments


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as response:  # noqa: S310  our own URL
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
