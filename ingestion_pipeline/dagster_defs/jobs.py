"""The two jobs, split where the parser works: the same step, for documents before and behind it."""

import dagster as dg

from ingestion_pipeline.dagster_defs.assets import ingest_step

# One process a run: a process a step costs seconds and gains nothing here.
EXECUTOR = dg.in_process_executor

# A run reports the checks of each of its partitions. Dagster would plan each check once more, for the run as a whole,
# and show an asset as unwell where that one is never evaluated.
EVERYTHING = dg.AssetSelection.assets(ingest_step).without_checks()

submit_job = dg.define_asset_job(
    "submit", selection=EVERYTHING, executor_def=EXECUTOR, description="Verify new uploads and hand them to the parser."
)
process_job = dg.define_asset_job(
    "process",
    selection=EVERYTHING,
    executor_def=EXECUTOR,
    description="Take parsed documents through chunks and embeddings to where search serves them.",
)
