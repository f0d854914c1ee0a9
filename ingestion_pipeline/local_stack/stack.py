"""The whole pipeline on one machine: which services run, in which order, with which settings.

What `ingest up` adds to the settings of production are the embedded PostgreSQL, the mocks of the vendors for which
there is no key, and keys of its own; each service then reads its settings from the environment, as it would anywhere.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import requests
from pydantic import SecretStr

from ingestion_pipeline.adapters.postgres.migrations import Migrator
from ingestion_pipeline.local_stack.embedded_postgres import EmbeddedPostgres
from ingestion_pipeline.local_stack.ports import usable_port
from ingestion_pipeline.local_stack.secret_files import secret_file
from ingestion_pipeline.local_stack.services import Service
from ingestion_pipeline.settings import PROJECT_ROOT, Settings

LOOPBACK = "127.0.0.1"
INGEST = (sys.executable, "-m", "ingestion_pipeline.cli")
GRAPHQL_TIMEOUT_SECONDS = 5
DAEMONS_QUERY = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"


@dataclass(frozen=True, slots=True)
class Address:
    """One line of what `ingest up` prints."""

    name: str
    url: str
    note: str = ""


class LocalStack:
    """Prepares the data folder and the database, then describes the services. Blocking; starts only PostgreSQL."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._data = settings.data_dir.resolve()
        self._environment: dict[str, str] = {}
        self._services: list[Service] = []
        self.addresses: list[Address] = []

    @property
    def log_dir(self) -> Path:
        return self._data / "logs"

    @property
    def run_dir(self) -> Path:
        return self._data / "run"

    def prepare(self) -> list[Service]:
        """Start PostgreSQL if it is the embedded one, migrate, choose ports; returns the services to supervise.

        Raises StartupError, ConfigurationError or MigrationError.
        """
        self._data.mkdir(parents=True, exist_ok=True)
        owner_url = owner_database_url(self._settings)
        worker_url = worker_database_url(self._settings, owner_url)
        api_url = _role_url(self._settings.api_database_url, owner_url, "ingest_api", self._data)
        migrator = Migrator(owner_url)
        migrator.migrate()
        migrator.set_precision(self._settings.vector_precision)
        migrator.provision_logins(worker_url, api_url)
        if self._settings.database_url is None:
            self._add_postgres(owner_url)
        before = tuple(service.name for service in self._services)
        worker = {
            **self._object_store(),
            **self._vendors(),
            "INGEST_WORKER_DATABASE_URL": worker_url,
        }
        api = self._add_api(before, {**worker, "INGEST_API_DATABASE_URL": api_url})
        self._add_dagster(before, worker, worker_url)
        addresses = {address.name.lower(): address.url for address in self.addresses}
        (self._data / "stack.json").write_text(
            json.dumps({"api_url": api, "dagster_url": addresses["dagster ui"], "addresses": addresses}, indent=2)
        )
        return self._services

    def forget_addresses(self) -> None:
        """Nothing answers at the addresses any more."""
        (self._data / "stack.json").unlink(missing_ok=True)

    def _add_postgres(self, owner_url: str) -> None:
        parts = urlsplit(owner_url)
        self._services.append(
            Service(
                name="postgres",
                command=[*INGEST, "serve", "postgres"],
                environment={"INGEST_DATA_DIR": str(self._data)},
                ready=embedded_postgres(self._settings).is_running,  # it runs already; the service keeps it so
                stop_timeout=40.0,
            )
        )
        shown = urlunsplit(parts._replace(netloc=f"{parts.hostname}:{parts.port}"))
        self.addresses.append(
            Address("PostgreSQL", shown, f"embedded; {parts.username}, password in {self._data}/postgres/password")
        )

    def _object_store(self) -> dict[str, str]:
        if self._settings.object_store != "local":
            self._settings.require("s3_bucket", "s3_access_key_id", "s3_secret_access_key")
            return {}
        return {"INGEST_OBJECT_STORE_DIR": str(self._settings.object_store_dir or self._data / "objects")}

    def _vendors(self) -> dict[str, str]:
        """The mocks' addresses and keys for each vendor whose key is not set; one process serves both."""
        settings = self._settings
        if settings.llama_cloud_api_key and settings.openai_api_key:
            return {}
        state = self._data / "mocks"
        state.mkdir(exist_ok=True)
        state.chmod(0o700)  # with each job the parser keeps the secret of its webhook
        parser_port = usable_port(LOOPBACK)
        embedder_port = usable_port(LOOPBACK)
        self._services.append(
            Service(
                name="mocks",
                command=[
                    *(sys.executable, "-m", "mock_services", "--state-dir", str(state)),
                    *("--llamacloud-port", str(parser_port), "--openai-port", str(embedder_port)),
                ],
                ready=f"http://{LOOPBACK}:{embedder_port}/healthz",
                after=(),
            )
        )
        environment: dict[str, str] = {}
        if settings.llama_cloud_api_key:
            settings.require("webhook_url", "webhook_secret")
        else:
            base_url = f"http://{LOOPBACK}:{parser_port}"
            environment |= {"INGEST_LLAMA_CLOUD_API_KEY": "llx-mock", "INGEST_LLAMA_CLOUD_BASE_URL": base_url}
            self.addresses.append(
                Address("LlamaParse", base_url, "a MOCK: set INGEST_LLAMA_CLOUD_API_KEY for the real one")
            )
        if not settings.openai_api_key:
            base_url = f"http://{LOOPBACK}:{embedder_port}/v1"
            environment |= {"INGEST_OPENAI_API_KEY": "sk-mock", "INGEST_OPENAI_BASE_URL": base_url}
            self.addresses.append(Address("OpenAI", base_url, "a MOCK: set INGEST_OPENAI_API_KEY for the real one"))
        return environment

    def _add_api(self, before: tuple[str, ...], worker: dict[str, str]) -> str:
        settings = self._settings
        port = usable_port(settings.api_host, settings.api_port)
        url = f"http://{settings.api_host}:{port}"
        key = (
            settings.api_key.get_secret_value()
            if settings.api_key
            else secret_file(self._data / "keys" / "api_key", "ik-")
        )
        webhook_secret = (
            settings.webhook_secret.get_secret_value()
            if settings.webhook_secret
            else secret_file(self._data / "keys" / "webhook_secret")
        )
        worker["INGEST_WEBHOOK_SECRET"] = webhook_secret
        worker["INGEST_WEBHOOK_URL"] = settings.webhook_url or f"{url}/webhooks/llamaparse"
        self._environment = {name: worker[name] for name in ("INGEST_WEBHOOK_SECRET", "INGEST_WEBHOOK_URL")}
        unneeded = {"INGEST_WORKER_DATABASE_URL", "INGEST_LLAMA_CLOUD_API_KEY", "INGEST_LLAMA_CLOUD_BASE_URL"}
        self._services.append(
            Service(
                name="api",
                command=[*INGEST, "serve", "api"],
                environment={
                    **{name: value for name, value in worker.items() if name not in unneeded},
                    "INGEST_API_KEY": key,
                    "INGEST_API_HOST": settings.api_host,
                    "INGEST_API_PORT": str(port),
                },
                ready=f"http://{LOOPBACK if settings.api_host == '0.0.0.0' else settings.api_host}:{port}/readyz",  # noqa: S104
                after=before,
            )
        )
        where = "of INGEST_API_KEY" if settings.api_key else f"in {self._data}/keys/api_key"
        self.addresses.append(Address("API", url, f"bearer key {where}; OpenAPI at /openapi.json"))
        return url

    def _add_dagster(self, before: tuple[str, ...], worker: dict[str, str], worker_url: str) -> None:
        port = usable_port(LOOPBACK, self._settings.dagster_port)
        url = f"http://{LOOPBACK}:{port}"
        environment = dagster_environment(worker_url, self._data, usable_port(LOOPBACK))
        code_server = environment["INGEST_CODE_SERVER_PORT"]
        workspace = ["-w", str(PROJECT_ROOT / "workspace.yaml")]
        scripts = Path(sys.executable).parent
        self._services += [
            Service(
                name="code-server",
                command=[*INGEST, "serve", "code", "--host", LOOPBACK, "--port", code_server],
                environment={**worker, **self._environment, **environment},
                ready=f"tcp://{LOOPBACK}:{code_server}",
                after=before,
                stop_timeout=25.0,  # runs come to the end of what they do just now
                working_directory=PROJECT_ROOT,
            ),
            Service(
                name="webserver",
                command=[str(scripts / "dagster-webserver"), *workspace, "-h", LOOPBACK, "-p", str(port)],
                environment=environment,
                ready=f"{url}/server_info",
                after=("code-server",),
                working_directory=PROJECT_ROOT,
            ),
            Service(
                name="daemon",
                command=[*INGEST, "serve", "daemon", *workspace],
                environment=environment,
                ready=lambda: daemons_are_healthy(url),
                after=("code-server", "webserver"),
                working_directory=PROJECT_ROOT,
            ),
        ]
        self.addresses.append(Address("Dagster UI", url))


def owner_database_url(settings: Settings) -> str:
    """The URL for migrations: INGEST_DATABASE_URL, or that of the embedded PostgreSQL, which is started if need be."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return embedded_postgres(settings).start().url()


def worker_database_url(settings: Settings, owner_url: str) -> str:
    """INGEST_WORKER_DATABASE_URL, or the owner's with the role of the workers and a password of the data folder."""
    return _role_url(settings.worker_database_url, owner_url, "ingest_worker", settings.data_dir.resolve())


def embedded_postgres(settings: Settings) -> EmbeddedPostgres:
    """The server of the data folder, started or not."""
    return EmbeddedPostgres(settings.data_dir.resolve() / "postgres")


def dagster_environment(worker_url: str, data_dir: Path, code_server_port: int) -> dict[str, str]:
    """What dagster.yaml and workspace.yaml refer to. Dagster's tables are in the schema `dagster`."""
    parts = urlsplit(worker_url)
    options = "&".join(filter(None, [parts.query, f"options={quote('-csearch_path=dagster', safe='')}"]))
    dagster_dir = data_dir / "dagster"
    dagster_dir.mkdir(parents=True, exist_ok=True)
    return {
        "DAGSTER_HOME": str(PROJECT_ROOT),
        "INGEST_DAGSTER_DATABASE_URL": urlunsplit(parts._replace(scheme="postgresql+psycopg2", query=options)),
        "INGEST_DAGSTER_DATA_DIR": str(dagster_dir),
        "INGEST_CODE_SERVER_HOST": LOOPBACK,
        "INGEST_CODE_SERVER_PORT": str(code_server_port),
        "PYTHONUNBUFFERED": "1",
    }


def daemons_are_healthy(dagster_url: str) -> bool:
    """Whether every daemon that Dagster needs has sent a heartbeat lately: without it, sensors would never fire."""
    answer = requests.post(f"{dagster_url}/graphql", json={"query": DAEMONS_QUERY}, timeout=GRAPHQL_TIMEOUT_SECONDS)
    statuses = answer.json()["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    return bool(statuses) and all(status["healthy"] for status in statuses if status["required"])


def _role_url(given: SecretStr | None, owner_url: str, role: str, data_dir: Path) -> str:
    """The URL given in the settings, or the owner's with the role and a password of the data folder."""
    if given is not None:
        return given.get_secret_value()
    parts = urlsplit(owner_url)
    password = secret_file(data_dir / "keys" / f"{role}_password")
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{quote(password, safe='')}@{address}"))
