# One image for every service of ours; docker-compose.yml gives each its command and its environment.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/app/.venv/bin:$PATH

RUN useradd --create-home --uid 10001 ingest
WORKDIR /app

COPY requirements.lock setup.py pyproject.toml README.md ./
RUN python -m venv .venv \
    && .venv/bin/python -m pip install --no-cache-dir --quiet 'uv>=0.13,<0.14' \
    && .venv/bin/uv pip sync --no-cache --quiet --compile-bytecode --python .venv/bin/python requirements.lock

COPY sql sql
COPY ingestion_pipeline ingestion_pipeline
COPY mock_services mock_services
COPY workspace.yaml ./
# Dagster writes to its home: not where the code is.
COPY --chown=ingest:ingest dagster.yaml /home/ingest/
RUN .venv/bin/uv pip install --no-cache --quiet --python .venv/bin/python --no-deps --editable . \
    && .venv/bin/python -m compileall -q ingestion_pipeline mock_services \
    && mkdir -p /data && chown ingest:ingest /data

USER ingest
ENV DAGSTER_HOME=/home/ingest INGEST_DATA_DIR=/data
