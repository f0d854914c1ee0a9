"""From settings to adapters: the one place, besides the entry points, that knows which adapter implements a port.

The vendors' SDKs take seconds to import and not every process needs them, so they are imported when they are first
needed.
"""

from decimal import Decimal

from ingestion_pipeline.accounts import BudgetLimits, Budgets, VendorWatch
from ingestion_pipeline.adapters.guards.breaker import CircuitBreaker
from ingestion_pipeline.adapters.guards.guarded_ports import (
    EMBED_REQUESTS,
    EMBED_TOKENS,
    PARSE_REQUESTS,
    GuardedEmbedder,
    GuardedParser,
)
from ingestion_pipeline.adapters.guards.limiter import RateLimiter
from ingestion_pipeline.adapters.postgres.budgets import PostgresBudgets
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.adapters.postgres.inventory import PostgresInventory
from ingestion_pipeline.adapters.postgres.partitions import PostgresPartitions
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.adapters.postgres.vendor_guards import BreakerPolicy, PostgresVendorGuards
from ingestion_pipeline.domain import Vendor
from ingestion_pipeline.inventory import Inventory
from ingestion_pipeline.partitions import Partitions
from ingestion_pipeline.ports import DocumentStore, Embedder, ObjectStore, Parser
from ingestion_pipeline.settings import Settings

EMBEDDING_DIMENSIONS = 1536  # as the schema's vectors
PROBE_PATIENCE_SECONDS = 5.0
LONGEST_OPEN = 2  # times as long as at first: once a minute somebody looks whether the vendor is back


def warm_up() -> None:
    """Do what is the same in every process that works on documents, for those that are forked from this one.

    The SDKs import the larger part of themselves when a client is made.
    """
    from ingestion_pipeline.adapters import object_store  # noqa: F401
    from ingestion_pipeline.adapters.llamacloud import LlamaCloudParser
    from ingestion_pipeline.adapters.openai_embedder import OpenAIEmbedder
    from ingestion_pipeline.stages.tokens import tokenizer

    LlamaCloudParser("nobody", "http://nowhere", "http://nowhere", "nothing").close()
    OpenAIEmbedder("nobody", "http://nowhere", "none", EMBEDDING_DIMENSIONS).close()
    queries()
    tokenizer()


def document_store(settings: Settings, *, actor: str = "worker") -> DocumentStore:
    """The workers' store, over INGEST_WORKER_DATABASE_URL; `actor` is who appears in the documents' history."""
    return PostgresDocumentStore(
        worker_database(settings, "ingest-worker"),
        actor=actor,
        claim_seconds=settings.claim_seconds,
        precision=settings.vector_precision,
    )


def inventory(settings: Settings) -> Inventory:
    """The audit's view of what INGEST_WORKER_DATABASE_URL holds."""
    return PostgresInventory(worker_database(settings, "ingest-audit"))


def partitions(settings: Settings) -> Partitions:
    """What the workers remember of Dagster's partitions, over INGEST_WORKER_DATABASE_URL."""
    return PostgresPartitions(worker_database(settings, "ingest-retention"))


def worker_database(settings: Settings, application_name: str) -> Database:
    """Connections of the workers' role, over INGEST_WORKER_DATABASE_URL."""
    values = settings.require("worker_database_url")
    return Database(
        values["worker_database_url"],
        application_name=application_name,
        setting="INGEST_WORKER_DATABASE_URL",
        max_connections=settings.database_connections,
    )


def object_store(settings: Settings) -> ObjectStore:
    """Local files or S3, as INGEST_OBJECT_STORE says."""
    from ingestion_pipeline.adapters.object_store import local_object_store, s3_object_store

    if settings.object_store == "local":
        return local_object_store(settings.require("object_store_dir")["object_store_dir"])
    values = settings.require("s3_bucket", "s3_access_key_id", "s3_secret_access_key")
    return s3_object_store(
        bucket=values["s3_bucket"],
        endpoint_url=settings.s3_endpoint_url,
        region=settings.s3_region,
        access_key_id=values["s3_access_key_id"],
        secret_access_key=values["s3_secret_access_key"],
    )


def parser(settings: Settings, database: Database) -> Parser:
    """LlamaParse, at INGEST_LLAMA_CLOUD_BASE_URL, behind the guards that `database` shares."""
    from ingestion_pipeline.adapters.llamacloud import LlamaCloudParser

    values = settings.require("llama_cloud_api_key", "webhook_url", "webhook_secret")
    adapter = LlamaCloudParser(
        api_key=values["llama_cloud_api_key"],
        base_url=settings.llama_cloud_base_url,
        webhook_url=values["webhook_url"],
        webhook_signing_secret=values["webhook_secret"],
        tier=settings.parse_tier,
        version=settings.parse_version,
        timeout_seconds=settings.vendor_timeout_seconds,
    )
    shared = PostgresVendorGuards(database)
    return GuardedParser(
        adapter,
        _breaker(settings, Vendor.LLAMACLOUD, shared, PROBE_PATIENCE_SECONDS),
        RateLimiter(
            shared,
            {PARSE_REQUESTS: settings.parse_requests_per_minute},
            longest_wait_seconds=settings.limit_wait_seconds,
        ),
        settings.parse_tier,
    )


def embedder(settings: Settings, database: Database, *, is_urgent: bool = False) -> Embedder:
    """OpenAI embeddings, at INGEST_OPENAI_BASE_URL, behind the guards that `database` shares.

    What is urgent, a search, waits neither for the rate limits, which count it, nor for a vendor that is being tested.
    """
    from ingestion_pipeline.adapters.openai_embedder import OpenAIEmbedder

    values = settings.require("openai_api_key")
    adapter = OpenAIEmbedder(
        api_key=values["openai_api_key"],
        base_url=settings.openai_base_url,
        model=settings.embedding_model,
        dimensions=EMBEDDING_DIMENSIONS,
        timeout_seconds=settings.vendor_timeout_seconds,
    )
    shared = PostgresVendorGuards(database)
    return GuardedEmbedder(
        adapter,
        _breaker(settings, Vendor.OPENAI, shared, 0.0 if is_urgent else PROBE_PATIENCE_SECONDS),
        RateLimiter(
            shared,
            {
                EMBED_REQUESTS: settings.embed_requests_per_minute,
                EMBED_TOKENS: settings.embed_tokens_per_minute,
            },
            longest_wait_seconds=settings.limit_wait_seconds,
            is_urgent=is_urgent,
        ),
    )


def budget_limits(settings: Settings) -> BudgetLimits:
    """The budgets of the settings."""
    given = (settings.daily_budget_usd, settings.owner_daily_budget_usd, settings.document_budget_usd)
    return BudgetLimits(*(None if usd is None else Decimal(str(usd)) for usd in given))


def budgets(settings: Settings, database: Database) -> Budgets:
    """Budgets, held against the ledger in `database`."""
    return PostgresBudgets(database, budget_limits(settings), settings.embedding_model)


def vendor_watch(database: Database) -> VendorWatch:
    """The state of the guards that `database` shares."""
    return PostgresVendorGuards(database)


def _breaker(
    settings: Settings, vendor: Vendor, shared: PostgresVendorGuards, patience_seconds: float
) -> CircuitBreaker:
    policy = BreakerPolicy(
        most_failures=settings.breaker_failures,
        open_seconds=settings.breaker_open_seconds,
        longest_open_seconds=LONGEST_OPEN * settings.breaker_open_seconds,
        # a submission is two requests; a process that died with its probe holds the others up for so long
        probe_seconds=2 * settings.vendor_timeout_seconds + 5,
    )
    return CircuitBreaker(vendor, shared, policy, patience_seconds=patience_seconds)
