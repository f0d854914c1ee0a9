"""One per cent of the documents changed: what is embedded again, against what is new."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import psycopg2

from ingestion_pipeline_tests.performance import loading, worker
from ingestion_pipeline_tests.performance.corpus import Sizes, changed, write_corpus
from ingestion_pipeline_tests.performance.report import Figure
from ingestion_pipeline_tests.performance.surroundings import Surroundings

CHANGED_SHARE = 0.01
OF_SOME = """
select count(*) filter (where not exists (
    select from upload_pipeline.document_chunks as o
    where o.chunk_sha256 = c.chunk_sha256 and not (o.document_id = any(%(documents)s::uuid[]))
)), count(*)
from upload_pipeline.document_chunks as c where c.document_id = any(%(documents)s::uuid[])
"""


def measure(here: Surroundings, sizes: Sizes) -> Iterator[Figure]:
    """A sentence is added to one per cent of the small documents and to one big one; those are uploaded again.

    A changed file is a document of its own; what makes it cheap is that no text is embedded twice for one owner.
    """
    corpus = here.folder / "changed"
    files = write_corpus(corpus, sizes)
    site, limit_site = here.site(), here.site()
    here.limit(corpus, limit_site)
    settings = here.settings(site)
    with here.process() as run_in_it:
        run_in_it(loading.load_parsed, settings, site.urls.owner, files, here.dagster(site))
        run_in_it(worker.prepare, settings, here.dagster(site))
        run_in_it(worker.work)
        again = _change(files)
        documents = run_in_it(loading.load_parsed, settings, site.urls.owner, again, here.dagster(site))
        run_in_it(worker.prepare, settings, here.dagster(site))
        here.forget_calls()
        done = run_in_it(worker.work)
        embedded = here.texts_embedded()
    loading.assert_complete(site.urls.owner)
    new, all_chunks = _chunks(site.urls.owner, documents)
    by_limit, _ = here.limit(corpus, limit_site)
    name = f"{len(again)} of {sizes.documents} documents changed"
    yield Figure(name, "chunks of the changed documents", all_chunks, "texts")
    yield Figure(name, "chunks whose text is new", new, "texts")
    wished = "= new chunks"
    yield Figure(name, "embedded", embedded, "texts", by_limit.embedded, target=wished, met=embedded == new)
    yield Figure(name, "time", done.seconds, "s", by_limit.seconds, by_limit.seconds / done.seconds)
    here.drop(site)
    here.drop(limit_site)


def _change(files: list[Path]) -> list[Path]:
    """Change files where they are: the first of the small ones and, if there is one, a big one."""
    small = [file for file in files if file.name.startswith("small")]
    big = [file for file in files if file.name.startswith("big")]
    chosen = small[: max(1, round(len(small) * CHANGED_SHARE))] + big[:1]
    for file in chosen:
        file.write_text(changed(file.read_text(), file.stem))
    return chosen


def _chunks(owner_url: str, documents: list[UUID]) -> tuple[int, int]:
    """Of some documents the chunks whose text no other document has, and all chunks."""
    with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cursor:
        cursor.execute(OF_SOME, {"documents": [str(document) for document in documents]})
        found = cursor.fetchone()
    assert found is not None
    return int(found[0]), int(found[1])
