"""Postgres: connections, migrations, the statements of sql/queries, and bulk writes."""
