"""Processes that claim documents and finish them, as runs do: with the real store, in batches of both lanes.

They are forked from one process that has imported everything, so that eight of them cost no more time than one.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.domain import Document, Failure, Lane
from ingestion_pipeline.errors import ClaimLostError

BATCH_DOCUMENTS = 23
BATCH_BYTES = 1 << 30
IDLE_SECONDS = 0.05
REFUSED = Failure(code="pdf_is_broken", message="the PDF is damaged", stage="parsed", transient=False)


@dataclass(frozen=True)
class Fate:
    """A signal that a process sends itself in the middle of its batch of this number; or it `hoards` what it claims."""

    signal: int = 0
    batch: int = 0
    hoards: bool = False


class ClaimingProcess:
    """Goes on from `begin` until it is killed; after a signal to itself it says what it held and lost meanwhile."""

    def __init__(self, url: str, actor: str, claim_seconds: float, fate: Fate) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=main, args=(url, actor, claim_seconds, fate, theirs))
        self.process.start()

    def begin(self) -> None:
        """Start to claim."""
        self._pipe.send("go")

    def said(self) -> Any:
        """What it says next."""
        assert self._pipe.poll(60), "the process says nothing"
        return self._pipe.recv()

    def ended_by(self) -> int:
        """The signal that it ended by."""
        self.process.join(60)
        return -(self.process.exitcode or 0)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.join()


def finish(store: PostgresDocumentStore, claim: str, document: Document) -> None:
    """The end of a document's work in its lane: at the parser, or settled and told."""
    if document.parse_job_id is None:
        store.parse_submitted(document, claim, f"job-{document.document_id}", 3600)
    else:
        store.dead_letter(document, claim, REFUSED)
        store.release_claim(claim, [document.document_id])


def work(store: PostgresDocumentStore, fate: Fate, pipe: Connection) -> None:
    """Batch after batch, by turns of the two lanes; what the dead have held goes back when there is nothing to do."""
    idle = batches = 0
    while True:
        for lane in Lane:
            batch = store.claim_batch(lane, max_documents=BATCH_DOCUMENTS, max_bytes=BATCH_BYTES)
            if batch is None:
                idle += 1
                continue
            idle, batches = 0, batches + 1
            if fate.hoards:
                continue
            documents = store.load(batch.document_ids)
            half = len(documents) // 2
            finish_all(store, batch.claim, documents[:half])
            if batches == fate.batch:
                os.kill(os.getpid(), fate.signal)
            lost = finish_all(store, batch.claim, documents[half:])
            if batches == fate.batch:
                pipe.send((len(documents) - half, lost))
        if idle >= len(Lane):
            store.release_expired_claims()
            time.sleep(IDLE_SECONDS)


def finish_all(store: PostgresDocumentStore, claim: str, documents: Sequence[Document]) -> int:
    """Finish each; returns how many were another's by then."""
    lost = 0
    for document in documents:
        try:
            finish(store, claim, document)
        except ClaimLostError:
            lost += 1
    return lost


def main(url: str, actor: str, claim_seconds: float, fate: Fate, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which end their processes
    database = Database(url, application_name=actor, max_connections=1)
    store = PostgresDocumentStore(database, actor=actor, claim_seconds=claim_seconds)
    store.active_batches(Lane.SUBMIT)  # connected
    pipe.send("ready")
    pipe.recv()
    work(store, fate, pipe)
