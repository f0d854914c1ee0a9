"""The named statements of sql/queries, loaded once."""

from collections.abc import Iterable
from functools import cache
from typing import Any, NewType
from uuid import UUID

import aiosql
from psycopg2.extras import RealDictCursor

from ingestion_pipeline.settings import PROJECT_ROOT

SQL_ROOT = PROJECT_ROOT / "sql"
MIGRATIONS = SQL_ROOT / "migrations"
UuidArray = NewType("UuidArray", str)


@cache
def queries() -> Any:
    """An object with one method a statement, called with a connection and the statement's named parameters.

    Rows come as dictionaries. The suffix of a name in the .sql file says what is returned: ^ one row or None, ! the
    count of affected rows, none an iterator of rows.
    """
    return aiosql.from_path(
        SQL_ROOT / "queries", "psycopg2", mandatory_parameters=False, kwargs={"cursor_factory": RealDictCursor}
    )


def uuid_array(ids: Iterable[UUID]) -> UuidArray:
    """Many ids as a parameter that a statement casts to uuid[]: the driver's own form is an expression for each id."""
    return UuidArray(f"{{{','.join(map(str, ids))}}}")
