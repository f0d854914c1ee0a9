"""What an audit works with: the stores, and how far it goes."""

from dataclasses import dataclass, field

from ingestion_pipeline.audit.findings import Code
from ingestion_pipeline.audit.pace import Pace
from ingestion_pipeline.audit.tally import Tally
from ingestion_pipeline.inventory import Inventory, PartitionBook
from ingestion_pipeline.ports import DocumentStore, ObjectStore

DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds.

    An object younger than `orphan_seconds` may be one of an upload under way; a settled document younger than
    `grace_seconds`, or a claim that expired no longer ago, may be one that is just being told; work that is due for
    less than `stall_seconds` may just have its turn; a parse job may take `parsing_seconds`.
    """

    is_fixing: bool = False
    codes: frozenset[Code] = frozenset(Code)
    orphan_seconds: float = DAY
    grace_seconds: float = 300.0
    stall_seconds: float = 3600.0
    parsing_seconds: float = DAY
    concurrency: int = 4


@dataclass(frozen=True, slots=True)
class Audit:
    """One audit: `partitions` is None where Dagster is not looked at, `model` the one that search uses."""

    inventory: Inventory
    documents: DocumentStore
    objects: ObjectStore
    partitions: PartitionBook | None
    model: str
    options: Options = field(default_factory=Options)
    tally: Tally = field(default_factory=Tally)
    pace: Pace = field(default_factory=lambda: Pace(None))

    def wants(self, *codes: Code) -> bool:
        """Whether any of these is asked for."""
        return not self.options.codes.isdisjoint(codes)
