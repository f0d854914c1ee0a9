"""Fixtures of the Dagster tests: the mocks once a session, a pipeline of its own for each test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from ingestion_pipeline.local_stack.stack import dagster_environment
from ingestion_pipeline.settings import PROJECT_ROOT
from mock_services.process import MockServices, start_mock_services
from orchestration.audited_pipeline import AuditedPipeline
from orchestration.pipeline_under_test import PipelineUnderTest

if TYPE_CHECKING:
    from conftest import DatabaseUrls


@pytest.fixture(scope="session")
def mock_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    """LlamaParse and OpenAI, as one process."""
    with start_mock_services(tmp_path_factory.mktemp("mocks"), vectors="instant", webhook_retry_seconds=[]) as running:
        yield running


@pytest.fixture
def pipeline(mock_services: MockServices, database_urls: "DatabaseUrls", tmp_path: Path) -> Iterator[PipelineUnderTest]:
    """Definitions, adapters and a Dagster instance over an empty database and mocks that were reset."""
    for service in ("llamacloud", "openai"):
        mock_services.control(service, "POST", "reset", {"state": True})
    with PipelineUnderTest.over(database_urls, tmp_path / "objects", mock_services) as running:
        yield running


@pytest.fixture
def audited(pipeline: PipelineUnderTest, database_urls: "DatabaseUrls") -> Iterator[AuditedPipeline]:
    """The pipeline, and audits of it."""
    with AuditedPipeline.over(pipeline, database_urls) as running:
        yield running


@pytest.fixture
def pipeline_with(
    pipeline: PipelineUnderTest, database_urls: "DatabaseUrls", tmp_path: Path
) -> Iterator[Callable[..., PipelineUnderTest]]:
    """Makes another worker of the same database, objects and mocks, with other settings."""
    with ExitStack() as stack:

        def make(**changes: Any) -> PipelineUnderTest:
            over = PipelineUnderTest.over(database_urls, tmp_path / "objects", pipeline.mocks, **changes)
            return stack.enter_context(over)

        yield make


@pytest.fixture
def dagster_settings(database_urls: "DatabaseUrls", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that dagster.yaml and workspace.yaml refer to."""
    settings = dagster_environment(database_urls.worker, tmp_path, code_server_port=4000)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def instance(dagster_settings: dict[str, str]) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance on Postgres, by dagster.yaml."""
    with dg.DagsterInstance.from_config(str(PROJECT_ROOT)) as loaded:
        yield loaded
