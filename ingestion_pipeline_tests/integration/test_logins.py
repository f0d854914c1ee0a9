"""The logins of our roles, which belong to the whole server, and the settings that messages about databases name."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from command_line import run_ingest
from conftest import DatabaseUrls, PostgresServer
from pydantic import SecretStr
from stored_documents import WAITING, sql, wait_for

from ingestion_pipeline.adapters.postgres import connection as adapter
from ingestion_pipeline.adapters.postgres.migrations import Migrator
from ingestion_pipeline.api.main import build_app
from ingestion_pipeline.errors import ConfigurationError
from ingestion_pipeline.settings import Settings


@pytest.fixture
def other_database(postgres_server: PostgresServer) -> Iterator[DatabaseUrls]:
    urls = postgres_server.create_database()
    yield urls
    postgres_server.drop_database(urls.name)


def test_logins_are_set_while_another_database_of_the_server_sets_them(
    database_urls: DatabaseUrls, other_database: DatabaseUrls
) -> None:
    migrator = Migrator(database_urls.owner)
    with (
        ThreadPoolExecutor(1) as pool,
        closing(psycopg2.connect(other_database.owner)) as other,
        other.cursor() as cursor,
    ):
        cursor.execute("alter role ingest_worker with login")
        provisioned = pool.submit(migrator.provision_logins, database_urls.worker, database_urls.api)
        wait_for(lambda: sql(database_urls.owner, WAITING) == [(1,)], "the second session waits for the first")
        other.commit()
        provisioned.result(20)
    assert sql(database_urls.worker, "select current_user") == [("ingest_worker",)]


def test_a_service_whose_database_will_not_do_names_its_own_setting(
    database_urls: DatabaseUrls, empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        _env_file=None,
        worker_database_url=SecretStr(empty_database_url),
        api_database_url=SecretStr(empty_database_url),
        object_store_dir=tmp_path,
        api_key=SecretStr("key-of-the-services-test"),
        webhook_secret=SecretStr("secret-of-the-webhooks"),
        openai_api_key=SecretStr("sk-test"),
    )
    with pytest.raises(ConfigurationError, match="INGEST_API_DATABASE_URL has no ingestion schema"):
        build_app(settings)
    monkeypatch.setattr(adapter, "MINIMUM_SERVER", 990000)
    with pytest.raises(ConfigurationError, match="server of INGEST_API_DATABASE_URL is PostgreSQL"):
        build_app(settings)


def test_no_service_starts_on_a_schema_that_is_older_than_its_code(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    Migrator(database_urls.owner).rollback()
    given = {"INGEST_WORKER_DATABASE_URL": database_urls.worker, "INGEST_API_DATABASE_URL": database_urls.api}
    needed = {
        "INGEST_OBJECT_STORE_DIR": str(tmp_path),
        "INGEST_API_KEY": "key-of-the-services-test",
        "INGEST_WEBHOOK_SECRET": "secret-of-the-webhooks",
        "INGEST_OPENAI_API_KEY": "sk-test",
    }
    for service, setting in ((("api",), "INGEST_API"), (("code", "--port", "4000"), "INGEST_WORKER")):
        done = run_ingest("serve", *service, settings=given | needed, directory=tmp_path)
        assert done.returncode != 0
        assert f"{setting}_DATABASE_URL is older than this version: run `ingest db migrate`" in done.stderr
        assert "Traceback" not in done.stderr
