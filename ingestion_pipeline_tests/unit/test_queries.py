"""The files of statements."""

import re
from collections import Counter

from ingestion_pipeline.adapters.postgres.queries import SQL_ROOT, queries

NAMED = re.compile(r"^-- name: (\w+)", re.MULTILINE)


def test_no_statement_takes_the_place_of_another_of_its_name() -> None:
    names = [name for path in (SQL_ROOT / "queries").glob("*.sql") for name in NAMED.findall(path.read_text())]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert set(names) <= set(dir(queries()))
