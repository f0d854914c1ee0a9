"""Documents of a run in groups that go through the stages together, several groups side by side.

A stage writes a whole group in one transaction. Where that fails, each document is tried alone, so that a bad one fails
alone. Memory is that of the groups in flight, whatever the size of the batch.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

from ingestion_pipeline.domain import Document
from ingestion_pipeline.errors import ClaimLostError
from ingestion_pipeline.pipeline.failures import in_log, settle
from ingestion_pipeline.pipeline.report import Asset, StageReport
from ingestion_pipeline.pipeline.services import Services

GROUP_DOCUMENTS = 128
GROUP_BYTES = 4 << 20
GROUPS_IN_FLIGHT = 2
LOOK_SECONDS = 0.2
STOP_SECONDS = 5.0  # for answers that are under way when a run is told to stop

Item = TypeVar("Item")
Made = TypeVar("Made")


Text = bytes  # of a text: its owner and its SHA-256


@dataclass(slots=True)
class Purchases:
    """Which texts are with the embedder or have their vectors, for all groups of a run: none is paid for twice."""

    _requested: set[Text] = field(default_factory=set)
    _bought: set[Text] = field(default_factory=set)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, wanted: set[Text], doubted: set[Text]) -> tuple[set[Text], set[Text]]:
        """(the caller's to buy, bought already); where others are buying all of them, waits until one is done.

        What is bought is to be copied; texts that could not be copied after all are `doubted` the next time.
        """
        with self._changed:
            bought = (wanted & self._bought) - doubted
            mine = wanted - self._requested - bought
            if wanted and not mine and not bought:
                self._changed.wait()
            self._requested |= mine
            return mine, bought

    def close(self, taken: set[Text], stored: set[Text]) -> None:
        """Of the texts that the caller took, some have their vectors now; the others are anybody's again."""
        with self._changed:
            self._requested -= taken
            self._bought |= stored
            self._changed.notify_all()


@dataclass(slots=True)
class Crew:
    """What the groups of a run share: the claim, the services, threads that wait for outside services, the reports."""

    claim: str
    services: Services
    helpers: ThreadPoolExecutor
    stopping: threading.Event
    purchases: Purchases = field(default_factory=Purchases)

    def go_on(self) -> None:
        """Raises ClaimLostError if the run is told to stop: what is not begun goes back."""
        if self.stopping.is_set():
            raise ClaimLostError("the run was told to stop: its documents go back")


@dataclass(slots=True)
class Group:
    """Documents on their way together, and what is to be told of them."""

    crew: Crew
    reports: list[StageReport] = field(default_factory=list)

    @property
    def services(self) -> Services:
        return self.crew.services

    def settle(self, document: Document, asset: Asset, error: Exception) -> None:
        """Record an error of one document: it leaves the group."""
        self.reports.append(settle(self.services, document, self.crew.claim, asset, error))

    def each(
        self, work: Callable[[Item], Made], items: Sequence[Item], document_of: Callable[[Item], Document], asset: Asset
    ) -> list[Made]:
        """What `work` makes of each item, in order, waiting for several at once; an error settles its document."""
        futures = [self.crew.helpers.submit(self._begin, work, item, document_of(item)) for item in items]
        return self._gather(
            [(item, future.result) for item, future in zip(items, futures, strict=True)], document_of, asset
        )

    def in_turn(
        self, work: Callable[[Item], Made], items: Sequence[Item], document_of: Callable[[Item], Document], asset: Asset
    ) -> list[Made]:
        """The same one after the other, where there is nothing to wait for: threads would only take turns."""
        begun = [(item, partial(self._begin, work, item, document_of(item))) for item in items]
        return self._gather(begun, document_of, asset)

    def _begin(self, work: Callable[[Item], Made], item: Item, document: Document) -> Made:
        self.crew.go_on()
        with in_log(document):
            return work(item)

    def _gather(
        self,
        begun: Sequence[tuple[Item, Callable[[], Made]]],
        document_of: Callable[[Item], Document],
        asset: Asset,
    ) -> list[Made]:
        made = []
        for item, result in begun:
            try:
                made.append(result())
            except Exception as error:  # noqa: BLE001 - classified by settle; a bug becomes a dead letter
                self.settle(document_of(item), asset, error)
        return made

    def together(
        self,
        write: Callable[[Sequence[Item]], object],
        items: Sequence[Item],
        document_of: Callable[[Item], Document],
        asset: Asset,
    ) -> list[Item]:
        """Those items that `write` succeeded for: with all at once or else with each alone."""
        if not items:
            return []
        try:
            self.crew.go_on()
            write(items)
            return list(items)
        except Exception as error:  # noqa: BLE001 - as above
            if len(items) == 1:
                self.settle(document_of(items[0]), asset, error)
                return []
        return [done for item in items for done in self.together(write, [item], document_of, asset)]


def in_groups(
    documents: Sequence[Document],
    work: Callable[[list[Document]], list[StageReport]],
    stopping: threading.Event,
    known: Iterator[StageReport],
) -> Iterator[StageReport]:
    """Do `work` for group after group, several at a time; reports come as groups are done, `known` ones before.

    Groups go on while reports are told. Once `stopping` is set no group is begun, and those at work have STOP_SECONDS
    to end what they do just now.
    """
    pool = ThreadPoolExecutor(GROUPS_IN_FLIGHT, thread_name_prefix="group")
    groups = _cut(documents)
    begun: set[Future[list[StageReport]]] = set()

    def begin() -> None:
        """As many more as may be at work or wait for it."""
        if not stopping.is_set():
            begun.update(pool.submit(work, group) for group in islice(groups, 2 * GROUPS_IN_FLIGHT - len(begun)))

    try:
        begin()
        yield from known
        while begun and not stopping.is_set():
            done = wait(begun, LOOK_SECONDS, FIRST_COMPLETED).done
            begun -= done
            for group in done:
                yield from group.result()
            begin()
        for group in wait([group for group in begun if not group.cancel()], STOP_SECONDS).done:
            yield from group.result()
    finally:
        pool.shutdown(wait=not stopping.is_set(), cancel_futures=True)


def _cut(documents: Sequence[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    size = 0
    for document in documents:
        if group and (len(group) == GROUP_DOCUMENTS or size + document.size_bytes > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(document)
        size += document.size_bytes
    if group:
        yield group
