"""Objects that belong to no document: uploads that were never recorded, texts of documents that are gone, left checks.

Only old objects count: a row comes moments after its object, and an audit must not be faster than that.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

from ingestion_pipeline.audit.findings import Code, Finding
from ingestion_pipeline.audit.services import Audit
from ingestion_pipeline.ports import StoredObject

PAGE = 500


def audit_objects(audit: Audit) -> None:
    """Adds to the audit's tally; objects of other prefixes than ours are none of its business."""
    if not audit.wants(Code.OBJECT_ORPHANED):
        return
    before = datetime.now(UTC) - timedelta(seconds=audit.options.orphan_seconds)
    prefixes: dict[str, Callable[[Sequence[str]], set[str]]] = {
        "raw": audit.inventory.files_in_use,
        "parsed": audit.inventory.texts_in_use,
        "checks": lambda _keys: set(),
    }
    for prefix, in_use in prefixes.items():
        for page in _pages(audit.objects.list(prefix)):
            old = [stored for stored in page if stored.modified_at < before]
            used = in_use([stored.key for stored in old])
            for stored in old:
                if stored.key not in used:
                    _orphan(audit, stored, in_use)
            audit.tally.advance("objects", len(page))


def _orphan(audit: Audit, stored: StoredObject, in_use: Callable[[Sequence[str]], set[str]]) -> None:
    if in_use([stored.key]):
        return
    if audit.options.is_fixing:
        audit.objects.delete(stored.key)
    detail = f"{stored.size_bytes:,} bytes of {stored.modified_at:%Y-%m-%d %H:%M} UTC"
    audit.tally.add(Finding(Code.OBJECT_ORPHANED, stored.key, detail), mended=audit.options.is_fixing)


def _pages(objects: Iterator[StoredObject]) -> Iterator[list[StoredObject]]:
    while page := list(islice(objects, PAGE)):
        yield page
