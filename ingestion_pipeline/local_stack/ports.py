"""Which port a service of the local stack takes."""

import socket

from ingestion_pipeline.errors import StartupError


def usable_port(host: str, preferred: int = 0) -> int:
    """`preferred` if nobody listens there, else a free port of the kernel's choice. Raises StartupError without any."""
    for candidate in (preferred, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StartupError(f"no port of {host} can be used: it has to be an address of this machine")
