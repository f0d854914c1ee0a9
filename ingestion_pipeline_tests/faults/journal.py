"""What workers asked the embedder for, and what became of it, in a file that outlives whoever is killed.

A line is written before a request leaves and after its vectors are committed, so what lies between the two when a
process dies was in flight: that, and nothing else, may be paid for again.
"""

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from ingestion_pipeline.errors import IngestionError, PostponedError
from ingestion_pipeline.ports import Embeddings
from ingestion_pipeline_tests.orchestration.faulty_ports import Around

FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT


def rounds_of(path: Path, process_id: int) -> Path:
    """A file with a byte for each round of a process."""
    return path.with_suffix(f".{process_id}")


class Journal:
    """Appends lines; each goes to the kernel in one write, so that processes may share the file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, FLAGS, 0o600)
        self._rounds = os.open(rounds_of(path, os.getpid()), FLAGS, 0o600)

    def note(self, event: str, **facts: Any) -> None:
        """Write an event down."""
        line = {"event": event, "process": os.getpid(), "thread": threading.get_ident(), **facts}
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")

    def note_round(self) -> None:
        """This process has come to the end of a round."""
        os.write(self._rounds, b".")


class JournalledEmbedder(Around):
    """An embedder whose requests are written down: `sent`, then `answered`, `spoiled` or `unsent`."""

    def __init__(self, real: Any, journal: Journal) -> None:
        super().__init__(real)
        self._journal = journal
        self._numbers = count()

    def embed(self, texts: Sequence[str]) -> Embeddings:
        number = next(self._numbers)
        digests = [sha256(text.encode()).hexdigest()[:16] for text in texts]
        self._journal.note("sent", number=number, texts=digests)
        try:
            embeddings: Embeddings = self._real.embed(texts)
        except PostponedError:
            self._journal.note("unsent", number=number)
            raise
        except IngestionError:
            self._journal.note("spoiled", number=number)
            raise
        self._journal.note("answered", number=number)
        return embeddings


class JournalledStore(Around):
    """A store that writes down which vectors were committed."""

    def __init__(self, real: Any, journal: Journal) -> None:
        super().__init__(real)
        self._journal = journal

    def store_vectors(self, claim: str, texts: Sequence[Any], *arguments: Any) -> None:
        self._real.store_vectors(claim, texts, *arguments)
        digests = sorted({sha256(text.text.encode()).hexdigest()[:16] for text in texts})
        self._journal.note("stored", texts=digests)


@dataclass(frozen=True)
class Purchases:
    """Texts that were asked for and whose vectors nobody kept: `unstored` were answered, or their asker died;
    `spoiled` were answered with what is no answer.
    """

    unstored: int
    spoiled: int


def lines(path: Path) -> list[dict[str, Any]]:
    """What was written down so far, but for a last line that is being written."""
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def purchases(path: Path) -> Purchases:
    """What became of all requests of a journal."""
    open_requests: dict[tuple[int, int], dict[str, Any]] = {}
    unstored = spoiled = 0
    for line in lines(path):
        who = line["process"], line["thread"]
        if line["event"] == "sent":  # whatever this thread asked for before was not stored to the end
            unstored += len(open_requests.pop(who, {"texts": ()})["texts"])
            open_requests[who] = line
        elif line["event"] == "unsent":
            open_requests.pop(who)
        elif line["event"] == "spoiled":
            spoiled += len(open_requests.pop(who)["texts"])
        elif line["event"] == "stored" and who in open_requests:
            left = [text for text in open_requests[who]["texts"] if text not in line["texts"]]
            open_requests[who]["texts"] = left
    unstored += sum(len(request["texts"]) for request in open_requests.values())
    return Purchases(unstored, spoiled)
