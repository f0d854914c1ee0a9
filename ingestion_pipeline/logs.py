"""Logs: one JSON object a line on standard output, with the correlation id, without secrets or document text."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

HIDDEN = "***"

# Keys whose values never reach a log, and secrets inside of other values: passwords in URLs, tokens, vendors' keys.
_SECRET_KEYS = frozenset({"authorization", "api_key", "password", "secret", "signature", "token", "webhook_secret"})
_SECRETS = re.compile(
    r"(?P<before>://[^:/@\s]*:)[^@\s]+(?=@)|(?P<scheme>\bBearer\s+)\S+|\b(?:sk|llx)-[\w-]{6,}", re.IGNORECASE
)


def configure_logging(*, include_libraries: bool = False) -> None:
    """Set structlog up for this process; with `include_libraries` the standard library's loggers write the same lines.

    Dagster sets the standard library's loggers up itself, so its processes leave them alone.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        hide_secrets,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(),
    )
    if include_libraries:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.format_exc_info,
                    hide_secrets,
                    structlog.processors.JSONRenderer(),
                ],
            )
        )
        logging.root.handlers = [handler]
        logging.root.setLevel(logging.INFO)
        logging.captureWarnings(True)


def hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what looks like a secret, by its key or by its form. A structlog processor."""
    for key, value in event.items():
        if key.lower() in _SECRET_KEYS:
            event[key] = HIDDEN
        elif isinstance(value, str):
            event[key] = _SECRETS.sub(_mask, value)
    return event


def _mask(found: re.Match[str]) -> str:
    return (found["before"] or found["scheme"] or "") + HIDDEN
