"""Which documents have a partition in Dagster: what the sensor of retention and operators need of Postgres.

The record and the Protocol; adapters.postgres.partitions implements it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from ingestion_pipeline.domain import State


@dataclass(frozen=True, slots=True)
class PartitionCount:
    """Documents in a state: all, those that lost their partition, and of these those that wait to get it back."""

    state: State
    documents: int
    retired: int
    awaited: int


class Partitions(Protocol):
    """All raise DatabaseUnavailableError."""

    def retire(self, *, settled_seconds: float, limit: int, forget: Callable[[Sequence[UUID]], None]) -> list[UUID]:
        """Retire documents that were settled, or restored, so long ago.

        `forget` takes their partitions from Dagster; what it raises leaves them as they were.
        """
        ...

    def awaited(self, *, limit: int) -> list[UUID]:
        """Documents whose partitions were asked back."""
        ...

    def restored(self, document_ids: Sequence[UUID]) -> None:
        """Note that documents have their partitions again."""
        ...

    def ask_back(
        self, *, document_ids: Sequence[UUID] | None = None, state: State | None = None, limit: int
    ) -> list[UUID]:
        """Ask for the partitions of retired documents; returns those for which that was news."""
        ...

    def counts(self) -> list[PartitionCount]:
        """By state, in the order of a document's life."""
        ...
