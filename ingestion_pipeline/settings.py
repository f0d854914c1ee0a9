"""All settings, read from the environment (prefix INGEST_) and from a .env file, only at entry points.

`ingest up` starts its services with every setting filled in for the embedded default; in production the same variables
come from the platform. Nothing else of the code knows which of the two it is.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from ingestion_pipeline.domain import Precision
from ingestion_pipeline.errors import ConfigurationError

PREFIX = "INGEST_"
PROJECT_ROOT = Path(__file__).resolve().parent.parent

# Variables with our prefix that are no settings: of dagster.yaml and docker-compose.yml, of the supervisor, of tests.
FOREIGN = re.compile(
    r"INGEST_(DAGSTER_DATABASE_URL|DAGSTER_DATA_DIR|CODE_SERVER_HOST|CODE_SERVER_PORT|WORKER_PASSWORD|API_PASSWORD"
    r"|SUPERVISOR_MARKER|TEST_\w+)"
)
# What is wrong with a value, by pydantic's types of errors where its own words say little to people.
_WORDS = {
    "too_short": "it must have at least {min_length} characters",
    "int_parsing": "it must be a whole number",
    "float_parsing": "it must be a number",
    "uuid_parsing": "it must be a UUID",
}

# The URLs of which libpq, dbmate and urllib have one understanding.
_ENCODED = r"(?:[^\s@:/?#\[\]%]|%[0-9A-Fa-f]{2})*"
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^\s@:/?#\[\],]*)(?::[0-9]+)?"
_POSTGRES_URL = re.compile(
    rf"postgres(?:ql)?://(?:{_ENCODED}(?::{_ENCODED})*@)?{_HOST}(?:,{_HOST})*(?:/{_ENCODED})?(?:\?[^\s#]*)?"
)


def check_postgres_url(url: str) -> None:
    """Raises ValueError, without the URL, unless every reader of it agrees which part is the password."""
    if not _POSTGRES_URL.fullmatch(url):
        raise ValueError(
            "it must look like postgresql://user:password@host:port/database, "
            "with special characters of user and password percent-encoded"
        )


def _checked_url(url: SecretStr) -> SecretStr:
    check_postgres_url(url.get_secret_value())
    return url


PostgresUrl = Annotated[SecretStr, AfterValidator(_checked_url)]


class Settings(BaseSettings):
    """One field a variable: `INGEST_` and the field's name in capitals. The descriptions are what an error tells."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(default=PROJECT_ROOT / "data", description="the folder of the local stack's data and keys")

    database_url: PostgresUrl | None = Field(
        default=None,
        description="postgresql://... of a role that may create schemas and roles, used by migrations only; "
        "without it `ingest up` runs an embedded PostgreSQL",
    )
    worker_database_url: PostgresUrl | None = Field(
        default=None, description="postgresql://ingest_worker:...@host:port/database, for Dagster's runs and sensors"
    )
    api_database_url: PostgresUrl | None = Field(
        default=None, description="postgresql://ingest_api:...@host:port/database, for the HTTP API"
    )
    database_connections: int = Field(default=10, ge=1, le=200, description="most connections that one process holds")

    object_store: Literal["local", "s3"] = Field(default="local", description="local (files) or s3")
    object_store_dir: Path | None = Field(default=None, description="the folder of the local object store")
    s3_bucket: str | None = Field(default=None, description="the bucket's name")
    s3_endpoint_url: str | None = Field(
        default=None, description="the endpoint's URL, e.g. https://<ref>.storage.supabase.co/storage/v1/s3"
    )
    s3_region: str = Field(default="us-east-1", description="the bucket's region")
    s3_access_key_id: SecretStr | None = Field(default=None, description="the access key's id")
    s3_secret_access_key: SecretStr | None = Field(default=None, description="the access key's secret")

    llama_cloud_api_key: SecretStr | None = Field(
        default=None, description="a LlamaCloud key (llx-...); without it `ingest up` runs a mock of LlamaParse"
    )
    llama_cloud_base_url: str = Field(
        default="https://api.cloud.llamaindex.ai", description="LlamaCloud's address in the region of the key"
    )
    parse_tier: Literal["cost_effective", "agentic", "agentic_plus"] = Field(
        default="cost_effective", description="LlamaParse's tier: cost_effective, agentic or agentic_plus"
    )
    parse_version: str = Field(default="latest", description="LlamaParse's version of the tier")
    parse_poll_seconds: float = Field(
        default=60.0, gt=0, description="seconds after which a parse job whose webhook did not come is asked for"
    )
    webhook_url: str | None = Field(
        default=None, description="where LlamaParse reaches the API: https://<public host>/webhooks/llamaparse"
    )
    webhook_secret: SecretStr | None = Field(
        default=None, min_length=16, description="at least 16 characters, shared with LlamaParse to sign webhooks"
    )
    webhook_window_seconds: float = Field(
        default=300.0, gt=0, description="how old a signed webhook may be, in seconds"
    )

    openai_api_key: SecretStr | None = Field(
        default=None, description="an OpenAI key (sk-...); without it `ingest up` runs a mock of OpenAI embeddings"
    )
    openai_base_url: str = Field(default="https://api.openai.com/v1", description="the address of the OpenAI API")
    embedding_model: Literal["text-embedding-3-small", "text-embedding-3-large"] = Field(
        default="text-embedding-3-small",
        description="text-embedding-3-small or text-embedding-3-large, both with 1536 dimensions",
    )
    vector_precision: Precision = Field(
        default=Precision.HALF,
        description="half or full: how vectors are stored; `ingest db migrate` changes it while there are none",
    )
    vendor_timeout_seconds: float = Field(default=60.0, gt=0, description="how long one call to a vendor may take")
    breaker_failures: int = Field(
        default=5, ge=1, description="failures in a row, over all processes, after which calls to a vendor are paused"
    )
    breaker_open_seconds: float = Field(
        default=30.0,
        gt=0,
        description="seconds of such a pause; further ones in a row are twice as long",
    )
    parse_requests_per_minute: float | None = Field(
        default=None, gt=0, description="most parse jobs created a minute by all processes (LlamaCloud's free plan: 20)"
    )
    embed_requests_per_minute: float | None = Field(
        default=None, gt=0, description="most embedding requests a minute of all processes"
    )
    embed_tokens_per_minute: float | None = Field(
        default=None, gt=0, description="most tokens a minute that all processes send to be embedded"
    )
    daily_budget_usd: float | None = Field(
        default=None, ge=0, description="most USD a day (UTC) for LlamaParse and OpenAI together; then work waits"
    )
    owner_daily_budget_usd: float | None = Field(
        default=None, ge=0, description="the same for the documents of one owner"
    )
    document_budget_usd: float | None = Field(
        default=None, ge=0, description="most USD for one document; one that would cost more becomes a dead letter"
    )
    limit_wait_seconds: float = Field(
        default=30.0, ge=0, description="seconds that a run waits for these limits; beyond, its documents wait"
    )

    api_host: str = Field(default="127.0.0.1", description="the address on which the API listens")
    api_port: int = Field(default=8000, ge=1, le=65535, description="the API's port")
    api_url: str | None = Field(default=None, description="the API's address for the command line, http://host:port")
    api_key: SecretStr | None = Field(
        default=None, min_length=16, description="the API's bearer key, at least 16 characters"
    )
    api_owner_id: UUID = Field(
        default=UUID("00000000-0000-4000-8000-000000000001"),
        description="the owner (a UUID) whom the bearer key stands for",
    )
    search_candidates: int = Field(
        default=100,
        ge=10,
        le=1000,
        description="vectors that a search of a vector index looks at, 10 to 1000: more find surer and take longer",
    )
    max_upload_bytes: int = Field(default=100 * 1024 * 1024, ge=1, description="largest upload in bytes")

    dagster_port: int = Field(default=3000, ge=1, le=65535, description="the Dagster webserver's port")
    batch_documents: int = Field(default=1000, ge=1, le=2000, description="most documents of one run")
    batch_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=1,
        description="most bytes of one run's files, 16 kB more for each; one file may be larger",
    )
    sensor_wait_seconds: float = Field(
        default=4.0, ge=0, le=30, description="seconds that a sensor with nothing to do waits for work, 0 to 30"
    )
    partition_retention_days: float = Field(
        default=30.0,
        ge=0,
        description="days that Dagster shows a settled document and keeps a run's events; 0 keeps all of them for ever",
    )
    max_attempts: int = Field(
        default=20, ge=1, description="attempts of a stage before a document becomes a dead letter"
    )
    max_retry_seconds: float = Field(
        default=24 * 3600.0,
        gt=0,
        description="seconds after the first failure of a stage in which it is tried again; then, at the latest, the "
        "document becomes a dead letter",
    )
    claim_seconds: float = Field(
        default=45.0, ge=5, description="seconds after which a silent worker loses its documents"
    )

    def require(self, *names: str) -> dict[str, Any]:
        """The values of settings that an entry point can't do without, secrets unwrapped.

        Raises ConfigurationError that names every one that is missing and what it should be.
        """
        values: dict[str, Any] = {}
        missing: list[str] = []
        for name in names:
            value = getattr(self, name)
            if value is None:
                missing.append(f"{PREFIX}{name.upper()} is not set: {type(self).model_fields[name].description}")
            values[name] = value.get_secret_value() if isinstance(value, SecretStr) else value
        if missing:
            raise ConfigurationError("\n".join(missing))
        return values


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and .env.

    Raises ConfigurationError that names each wrong one, without its value, and each that does not exist.
    """
    settings: Settings | None = None
    try:
        lines = _unknown()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 at byte {error.start}"
        raise ConfigurationError(f".env can't be read: {reason}") from None
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = str(problem["loc"][0])
            field = Settings.model_fields.get(name)
            hint = f" ({field.description})" if field else ""
            words = _in_words(problem["type"], problem["msg"], problem.get("ctx", {}))
            lines.append(f"{PREFIX}{name.upper()}: {words}{hint}")
    if settings is None or lines:
        raise ConfigurationError("\n".join(lines))
    return settings


def _unknown() -> list[str]:
    """A line for each variable with our prefix that nothing reads: a misspelt setting would be ignored silently."""
    names = [name.upper() for name in Settings.model_fields]
    sources = (EnvSettingsSource(Settings), DotEnvSettingsSource(Settings))
    given = {name.upper() for source in sources for name in source.env_vars}
    lines = []
    for variable in sorted(given):
        name = variable.removeprefix(PREFIX)
        if name == variable or name in names or FOREIGN.fullmatch(variable):
            continue
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else "see .env.example for those that there are"
        lines.append(f"{variable} is no setting: {hint}")
    return lines


def _in_words(kind: str, message: str, context: Mapping[str, Any]) -> str:
    if kind in _WORDS:
        return _WORDS[kind].format(**context)
    return message.removeprefix("Value error, ").replace("Input should be", "it must be")
