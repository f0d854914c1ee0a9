"""In which precision vectors are stored: a matter of the schema, which the setting has to agree with."""

from ingestion_pipeline.adapters.postgres.connection import Connection
from ingestion_pipeline.adapters.postgres.queries import queries
from ingestion_pipeline.domain import Precision
from ingestion_pipeline.errors import ConfigurationError


def expect_precision(connection: Connection, wanted: Precision) -> None:
    """Raises ConfigurationError unless the schema keeps vectors in the precision `wanted`, that of the settings."""
    stored = queries().vector_precision(connection)["precision"]
    if stored != wanted:
        raise ConfigurationError(
            f"INGEST_VECTOR_PRECISION is {wanted}, but the database keeps vectors in {stored} precision: "
            f"set it to {stored}; only while there are no vectors does `ingest db migrate` change the database instead"
        )
