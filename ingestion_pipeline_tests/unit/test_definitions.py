"""The Dagster definitions: complete, and built without touching anything outside of the process."""

import subprocess
import sys

import dagster as dg

from ingestion_pipeline.definitions import build_definitions
from ingestion_pipeline.pipeline.report import Asset

IMPORT_WITHOUT_IO = """
import os, sys
forbidden = ("socket.connect", "socket.bind", "os.mkdir", "os.remove", "os.rename")
writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND

def watch(event, arguments):
    if event in forbidden:
        raise SystemExit(f"{event} {arguments}")
    if event == "open" and arguments[2] & writing and arguments[0] != os.devnull:
        raise SystemExit(f"open {arguments}")

sys.addaudithook(watch)
import ingestion_pipeline.definitions as definitions
print(len(list(definitions.defs.resolve_all_asset_specs())))
"""


def test_importing_the_definitions_needs_no_settings_and_does_no_input_or_output() -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_WITHOUT_IO], env={}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(len(Asset))]


def test_every_asset_has_a_blocking_check_and_a_description() -> None:
    definitions = build_definitions()
    graph = definitions.resolve_asset_graph()
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    blocked = {spec.asset_key.to_user_string() for spec in specs if spec.blocking}
    assert blocked == {asset.value for asset in Asset}
    assert all(spec.description for spec in [*specs, *definitions.resolve_all_asset_specs()])


def test_the_assets_form_one_chain_in_the_order_of_the_flow() -> None:
    upstream = {
        spec.key.to_user_string(): [dependency.asset_key.to_user_string() for dependency in spec.deps]
        for spec in build_definitions().resolve_all_asset_specs()
    }
    assert upstream == {
        "raw_upload": [],
        "parsed": ["raw_upload"],
        "chunks": ["parsed"],
        "embeddings": ["chunks"],
        "finalized": ["embeddings"],
    }


def test_sensors_run_from_the_start_and_every_job_in_one_process() -> None:
    definitions = build_definitions()
    repository = definitions.get_repository_def()
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "upload_sensor",
        "completion_sensor",
        "reconcile_sensor",
        "retention_sensor",
    }
    assert {sensor.default_status for sensor in repository.sensor_defs} == {dg.DefaultSensorStatus.RUNNING}
    executors = {job.executor_def.name for job in repository.get_all_jobs()}
    assert executors == {"in_process"}


def test_definitions_are_fresh_and_take_other_services() -> None:
    services = object()
    definitions = build_definitions(resource_overrides={"services": services})
    assert definitions is not build_definitions()
    assert definitions.resources["services"] is services
