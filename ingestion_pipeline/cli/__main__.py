"""`python -m ingestion_pipeline.cli` is `ingest`."""

from ingestion_pipeline.cli import main

main()
