"""What a run works with: the ports, and the limits of the settings."""

from dataclasses import dataclass

from ingestion_pipeline.accounts import Budgets, VendorWatch
from ingestion_pipeline.partitions import Partitions
from ingestion_pipeline.ports import DocumentStore, Embedder, ObjectStore, Parser


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds unless a name says otherwise; a retention of 0 days keeps everything."""

    max_upload_bytes: int
    batch_documents: int
    batch_bytes: int
    max_attempts: int
    claim_seconds: float
    parse_poll_seconds: float
    max_retry_seconds: float = 24 * 3600.0
    concurrency: int = 8
    sensor_wait_seconds: float = 0.0
    partition_retention_days: float = 0.0


@dataclass(frozen=True, slots=True)
class Services:
    """Everything outside of this process that the stages need."""

    documents: DocumentStore
    partitions: Partitions
    objects: ObjectStore
    parser: Parser
    embedder: Embedder
    budgets: Budgets
    vendors: VendorWatch
    limits: Limits
