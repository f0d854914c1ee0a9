"""Settings: what an operator reads when one is missing or wrong, and that no value appears in it."""

import os
import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from ingestion_pipeline.errors import ConfigurationError
from ingestion_pipeline.settings import FOREIGN, PROJECT_ROOT, Settings, check_postgres_url, load_settings

SESAME = "open-sesame-9"
WRONG = {
    "database_url": f"mysql://u:{SESAME}@h/d",
    "worker_database_url": f"postgresql://u:p@{SESAME}@h/d",
    "api_database_url": f"postgresql://u:p/{SESAME}@h/d",
    "database_connections": "0",
    "object_store": SESAME,
    "parse_tier": SESAME,
    "parse_poll_seconds": "-3.25",
    "webhook_secret": "sesame-9",
    "webhook_window_seconds": "soon-sesame",
    "embedding_model": SESAME,
    "vendor_timeout_seconds": "0",
    "api_port": "70000",
    "api_key": "sesame-9",
    "api_owner_id": SESAME,
    "max_upload_bytes": "100 MB sesame",
    "dagster_port": "http-sesame",
    "batch_documents": "20000",
    "batch_bytes": "0",
    "max_attempts": "0",
    "claim_seconds": "1",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine, and no .env file but the test's own."""
    for name in list(os.environ):
        if name.upper().startswith("INGEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_named_and_described_and_its_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"INGEST_{name.upper()}", WRONG[name])
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    (line,) = caught.value.message.splitlines()
    assert line.startswith(f"INGEST_{name.upper()}: ")
    assert (Settings.model_fields[name].description or "no description") in line
    assert WRONG[name] not in line.removesuffix(f"({Settings.model_fields[name].description})") or len(WRONG[name]) == 1
    assert "sesame" not in line
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("webhook_secret", "it must have at least 16 characters"),
        ("api_key", "it must have at least 16 characters"),
        ("database_url", "it must look like postgresql://"),
        ("webhook_window_seconds", "it must be a number"),
        ("max_upload_bytes", "it must be a whole number"),
        ("api_owner_id", "it must be a UUID"),
        ("object_store", "it must be 'local' or 's3'"),
        ("max_attempts", "it must be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_said_in_words_for_people(monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.setenv(f"INGEST_{name.upper()}", WRONG[name])
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert caught.value.message.startswith(f"INGEST_{name.upper()}: {words}")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("INGEST_OPENAI_APIKEY", "INGEST_OPENAI_API_KEY"),
        ("INGEST_MAX_ATTEMPT", "INGEST_MAX_ATTEMPTS"),
        ("INGEST_S3_BUKET", "INGEST_S3_BUCKET"),
        ("ingest_llamacloud_api_key", "INGEST_LLAMA_CLOUD_API_KEY"),
    ],
)
@pytest.mark.parametrize("is_in_file", [False, True])
def test_a_misspelt_setting_is_refused_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, meant: str, *, is_in_file: bool
) -> None:
    if is_in_file:
        (tmp_path / ".env").write_text(f"{variable}={SESAME}\n")
    else:
        monkeypatch.setenv(variable, SESAME)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert caught.value.message == f"{variable.upper()} is no setting: did you mean {meant}?"


def test_a_name_that_resembles_no_setting_is_refused_beside_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGEST_ZZZ", SESAME)
    monkeypatch.setenv("INGEST_API_PORT", "0")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert [line.split(" ")[0] for line in caught.value.message.splitlines()] == ["INGEST_ZZZ", "INGEST_API_PORT:"]


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "INGEST_CODE_SERVER_PORT",
        "INGEST_API_PASSWORD",
        "INGEST_TEST_DATABASE_URL",
        "INGESTOR",
        "PATH_INGEST_",
    ):
        monkeypatch.setenv(name, "1")
    assert load_settings().api_port == 8000


def test_every_variable_with_the_prefix_in_the_files_of_the_project_is_a_setting_or_known() -> None:
    files = [PROJECT_ROOT / name for name in ("dagster.yaml", "workspace.yaml", "docker-compose.yml", ".env.example")]
    files += (PROJECT_ROOT / "ingestion_pipeline").rglob("*.py")
    found = {name for file in files for name in re.findall(r"\bINGEST_[A-Z0-9_]*[A-Z0-9]\b(?!_)", file.read_text())}
    known = {f"INGEST_{name.upper()}" for name in Settings.model_fields}
    assert "INGEST_DAGSTER_DATA_DIR" in found
    assert [name for name in sorted(found - known) if not FOREIGN.fullmatch(name)] == []


def test_every_wrong_setting_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WRONG.items():
        monkeypatch.setenv(f"INGEST_{name.upper()}", value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    named = {line.partition(":")[0] for line in caught.value.message.splitlines()}
    assert named == {f"INGEST_{name.upper()}" for name in WRONG}
    assert "sesame" not in caught.value.message


@pytest.mark.parametrize("name", [name for name, each in Settings.model_fields.items() if each.default is None])
def test_a_missing_setting_is_named_and_described(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings().require("object_store", name)
    assert caught.value.message == f"INGEST_{name.upper()} is not set: {Settings.model_fields[name].description}"


def test_all_missing_settings_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings().require("s3_bucket", "s3_region", "openai_api_key")
    assert [line.partition(" ")[0] for line in caught.value.message.splitlines()] == [
        "INGEST_S3_BUCKET",
        "INGEST_OPENAI_API_KEY",
    ]


def test_every_setting_is_described() -> None:
    assert [name for name, each in Settings.model_fields.items() if not each.description] == []


def test_required_settings_come_with_their_secrets_unwrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGEST_OPENAI_API_KEY", SESAME)
    monkeypatch.setenv("INGEST_API_PORT", "8123")
    assert load_settings().require("openai_api_key", "api_port") == {"openai_api_key": SESAME, "api_port": 8123}


def test_no_secret_shows_in_the_settings_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [name for name, each in Settings.model_fields.items() if "SecretStr" in str(each.annotation)]
    assert len(secrets) == 9
    for name in secrets:
        value = f"postgresql://u:{SESAME}@h/d" if name.endswith("database_url") else f"{SESAME}-and-more"
        monkeypatch.setenv(f"INGEST_{name.upper()}", value)
    settings = load_settings()
    assert "sesame" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_an_empty_variable_is_a_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGEST_OPENAI_API_KEY", "")
    monkeypatch.setenv("INGEST_API_PORT", "")
    settings = load_settings()
    assert (settings.openai_api_key, settings.api_port) == (None, 8000)


def test_the_environment_comes_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("INGEST_API_PORT=8111\nINGEST_DAGSTER_PORT=3111\nOTHER=1\n")
    monkeypatch.setenv("INGEST_API_PORT", "8222")
    settings = load_settings()
    assert (settings.api_port, settings.dagster_port) == (8222, 3111)


def test_a_wrong_setting_of_the_file_is_named_without_its_value(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"INGEST_API_PORT={SESAME}\n")
    with pytest.raises(ConfigurationError, match=r"^INGEST_API_PORT: ") as caught:
        load_settings()
    assert "sesame" not in caught.value.message


def test_settings_do_not_change_once_they_are_read() -> None:
    settings = load_settings(api_key=SecretStr("x" * 16))
    with pytest.raises(ValidationError):
        settings.api_port = 1  # type: ignore[misc]
    assert settings.api_port == 8000


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ingest_worker:secret@127.0.0.1:5432/postgres",
        "postgres://u@h",
        "postgresql:///database?host=/var/run/postgresql",
        "postgresql://u:p%40ss%2Fw%3Ard%25%23@h:5432/d?sslmode=require&options=-c%20search_path%3Dpublic",
        "postgresql://postgres.ref:p:w!$&'()*+,;=~@aws-0-eu.pooler.supabase.com:6543/postgres",
        "postgresql://u:p@[::1]:5432/d",
        "postgresql://u:p@first:5432,second:5433/d?target_session_attrs=read-write",
    ],
)
def test_the_urls_that_libpq_reads_as_they_look_are_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("INGEST_DATABASE_URL", url)
    assert load_settings().require("database_url") == {"database_url": url}


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "host=h password=p", "http://u:p@h/d", "postgresql://u:p@ss@h/d", "postgresql://u:p/ss@h/d",
     "postgresql://u:p%ss@h/d", "postgresql://u:p#ss@h/d", "postgresql://u:p?ss@h/d", "postgresql://u:p ss@h/d",
     "postgresql://u:p@h:port/d", "postgresql://u:p@h/d\n", "postgresql://u:[p]@h/d"],
)  # fmt: skip
def test_a_url_that_readers_would_take_apart_differently_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"postgresql://user:password@host:port/database.*percent-encoded"):
        check_postgres_url(url)


def test_an_env_file_that_is_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"# ok\n\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"\.env can't be read: it is not UTF-8 at byte 5"):
        load_settings()
