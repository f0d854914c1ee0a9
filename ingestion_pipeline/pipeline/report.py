"""What a run says of one document and one asset; Dagster events are made from it."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from ingestion_pipeline.domain import CheckResult, Failure

Metadata = Mapping[str, int | float | str]


class Asset(StrEnum):
    """The assets of a document, in the order of its flow."""

    RAW_UPLOAD = "raw_upload"
    PARSED = "parsed"
    CHUNKS = "chunks"
    EMBEDDINGS = "embeddings"
    FINALIZED = "finalized"


class Verdict(StrEnum):
    """How an asset of a document fared in a run."""

    DONE = "done"
    FAILED = "failed"  # a dead letter: the partition turns red
    WAITING = "waiting"  # for a retry or for the parser: nothing to see yet


class StageReport(NamedTuple):
    """One asset of one document. `preview` is Markdown for the operator; what an earlier run did `is_repeated`."""

    document_id: UUID
    asset: Asset
    verdict: Verdict
    metadata: Metadata = MappingProxyType({})
    checks: tuple[CheckResult, ...] = ()
    failure: Failure | None = None
    preview: str | None = None
    is_repeated: bool = False

    @property
    def is_last(self) -> bool:
        """Whether nothing more happens to the document."""
        return self.verdict is Verdict.FAILED or (self.asset, self.verdict) == (Asset.FINALIZED, Verdict.DONE)
