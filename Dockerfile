# One image for every service of ours; docker-compose.yml gives each its command and its environment.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/app/.venv/bin:$PATH DAGSTER_HOME=/app

RUN useradd --create-home --uid 10001 ingest
WORKDIR /app

COPY requirements.lock setup.py pyproject.toml README.md ./
RUN python -m venv .venv \
    && .venv/bin/python -m pip install --no-cache-dir --quiet 'uv>=0.13,<0.14' \
    && .venv/bin/uv pip sync --no-cache --quiet --python .venv/bin/python requirements.lock

COPY sql sql
COPY ingestion_pipeline ingestion_pipeline
COPY mock_services mock_services
COPY workspace.yaml dagster.yaml ./
RUN .venv/bin/uv pip install --no-cache --quiet --python .venv/bin/python --no-deps --editable . \
    && mkdir -p /data && chown ingest:ingest /data

USER ingest
ENV INGEST_DATA_DIR=/data
