"""Documents in, searchable vectors in Postgres: a Dagster data-asset pipeline that loses nothing."""
