"""Parsing in a process of its own: a document that crashes, hangs or swells a parser harms nobody else."""

import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

from mock_services.llamacloud.parsing import IN_PROCESS, DocumentError, ParsedPage, detect_format, parse_document
from mock_services.llamacloud.parsing.detection import MAX_UNPACKED_BYTES

Parse = Callable[[bytes, str], list[ParsedPage]]
Outcome = list[ParsedPage] | DocumentError

_MAX_MEMORY_BYTES = 8 * 2**30
_MAX_CONTENT_BYTES = MAX_UNPACKED_BYTES

# a fork server keeps the parsers loaded and starts a fresh child for each document in a few milliseconds
_processes = multiprocessing.get_context("forkserver")


def preload_parsers() -> None:
    """Tell the fork server, before its first child, to load the parsers once and for all."""
    _processes.set_forkserver_preload(["mock_services.llamacloud.isolation"])


def warm_up() -> None:
    """Start the fork server now, so that the first document need not wait for it."""
    forkserver.ensure_running()


def parse_isolated(path: Path, name: str, timeout: float, parse: Parse = parse_document) -> list[ParsedPage]:
    """The pages of a file. Blocks: call it in a thread. DocumentError with the vendor's code, also for a dead child."""
    if path.stat().st_size > _MAX_CONTENT_BYTES:
        raise DocumentError("DOCUMENT_TOO_LARGE", "The document is too large.")
    content = path.read_bytes()
    if not content or detect_format(content, name) in IN_PROCESS:
        return parse(content, name)
    receiver, sender = _processes.Pipe(duplex=False)
    child = _processes.Process(target=_parse_and_send, args=(sender, path, name, parse), daemon=True)
    child.start()
    sender.close()
    try:
        if not receiver.poll(timeout):
            raise DocumentError("TIMEOUT", f"Parsing took longer than {timeout:g} s.")
        outcome: Outcome = receiver.recv()
    except EOFError as error:
        raise DocumentError("PDF_IS_BROKEN", "The parser crashed on this file.") from error
    finally:
        child.kill()
        child.join()
        child.close()
        receiver.close()
    if isinstance(outcome, DocumentError):
        raise outcome
    return outcome


def _parse_and_send(sender: Connection, path: Path, name: str, parse: Parse) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    outcome: Outcome
    try:
        outcome = parse(path.read_bytes(), name)
    except DocumentError as failure:
        outcome = failure
    except Exception as error:  # noqa: BLE001  a parser may raise anything; the caller needs an answer
        outcome = DocumentError("PDF_IS_BROKEN", f"The parser failed: {error}")
    sender.send(outcome)
