"""`ingest db` and the frame of the command line."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import run_ingest

from ingestion_pipeline.cli import COMMANDS, ingest


def test_the_schema_is_migrated_shown_and_rolled_back(empty_database_url: str, tmp_path: Path) -> None:
    settings = {"INGEST_DATABASE_URL": empty_database_url}
    before = run_ingest("db", "status", settings=settings, directory=tmp_path)
    assert before.returncode == 1
    assert before.stdout.startswith("pending ")
    migrated = run_ingest("db", "migrate", settings=settings, directory=tmp_path)
    assert migrated.returncode == 0, migrated.stderr
    count = before.stdout.count("pending")
    assert migrated.stdout.splitlines()[-1] == f"{count} applied now"
    again = run_ingest("db", "migrate", settings=settings, directory=tmp_path)
    assert again.stdout.splitlines()[-1] == "0 applied now"
    after = run_ingest("db", "status", settings=settings, directory=tmp_path)
    assert after.returncode == 0
    assert "pending" not in after.stdout
    rolled_back = run_ingest("db", "rollback", "--yes", settings=settings, directory=tmp_path)
    assert rolled_back.returncode == 0, rolled_back.stderr
    assert rolled_back.stdout.count("pending") == 1


def test_a_rollback_that_nobody_confirms_changes_nothing(empty_database_url: str, tmp_path: Path) -> None:
    settings = {"INGEST_DATABASE_URL": empty_database_url}
    run_ingest("db", "migrate", settings=settings, directory=tmp_path)
    refused = run_ingest("db", "rollback", settings=settings, directory=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.endswith("Aborted: not confirmed.\n")
    assert run_ingest("db", "status", settings=settings, directory=tmp_path).returncode == 0


def test_a_database_that_is_away_is_one_clear_error_without_its_password(tmp_path: Path) -> None:
    settings = {"INGEST_DATABASE_URL": "postgresql://somebody:a-secret-word@127.0.0.1:1/none"}
    done = run_ingest("db", "status", settings=settings, directory=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error [configuration_error]: can't reach the server of INGEST_DATABASE_URL")
    assert "a-secret-word" not in done.stdout + done.stderr


def test_without_a_database_url_the_embedded_server_is_used_and_stopped_afterwards(tmp_path: Path) -> None:
    settings = {"INGEST_DATA_DIR": str(tmp_path / "data")}
    done = run_ingest("db", "migrate", settings=settings, directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "data" / "postgres").rglob("postmaster.pid"))


def test_help_lists_every_command_without_importing_any(tmp_path: Path) -> None:
    done = run_ingest("--help", settings={"PYTHONPROFILEIMPORTTIME": "1"}, directory=tmp_path)
    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert listed == set(COMMANDS)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"requests", "rich", "psycopg2", "dagster", "fastapi", "pydantic"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = CliRunner().invoke(ingest, [command, "--help"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"Usage: ingest {command}")


def test_a_command_that_does_not_exist_is_told_with_status_2(tmp_path: Path) -> None:
    done = run_ingest("uplaod", settings={}, directory=tmp_path)
    assert done.returncode == 2
    assert "No such command" in done.stderr


def test_wrong_settings_are_named_without_their_values(tmp_path: Path) -> None:
    done = run_ingest("status", settings={"INGEST_API_KEY": "too-short"}, directory=tmp_path)
    assert done.returncode == 1
    assert "INGEST_API_KEY" in done.stderr
    assert "too-short" not in done.stderr
