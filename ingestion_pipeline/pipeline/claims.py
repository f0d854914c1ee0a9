"""Holding on to claimed documents while a run works on them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from ingestion_pipeline.errors import DatabaseUnavailableError
from ingestion_pipeline.ports import DocumentStore

log = structlog.get_logger(__name__)


@contextmanager
def kept_alive(documents: DocumentStore, claim: str, claim_seconds: float) -> Iterator[None]:
    """Renew the claim three times within its life, in a thread, until the block ends; then give back what is left.

    A process that dies gives nothing back: its claim expires. So does, at once, that of a block which ends by an error:
    what it began and could not write down has to be looked for. A claim that could not be renewed in time is lost,
    which the next write notices.
    """
    finished = threading.Event()

    def renew() -> None:
        while not finished.wait(claim_seconds / 3):
            try:
                documents.renew_claim(claim)
            except DatabaseUnavailableError as error:
                log.warning("claim not renewed", claim=claim, reason=error.message)

    thread = threading.Thread(target=renew, name="claim", daemon=True)
    thread.start()
    give_back = documents.abandon_claim
    try:
        yield
        give_back = documents.release_claim
    finally:
        finished.set()
        thread.join()
        try:
            give_back(claim)
        except DatabaseUnavailableError as error:
            log.warning("claim not given back; it expires by itself", claim=claim, reason=error.message)
