"""The parts of a result that a `GET` with `expand` asks for."""

from collections.abc import Callable
from typing import Any

from mock_services.llamacloud.errors import ApiError
from mock_services.llamacloud.jobs import Job, Status
from mock_services.llamacloud.parsing import ParsedPage

# an A4 page in points: liteparse knows the true size, the other formats have none
_PAGE_SIZE = {"page_width": 595.0, "page_height": 842.0}
_NOT_CONTENT = {"usage", "job_metadata"}


def expanded(job: Job, expand: list[str], load: Callable[[], list[ParsedPage]]) -> dict[str, Any]:
    """The job and the parts asked for.

    ApiError 400 for Markdown of the fast tier or an unknown part, 404 for content while the job is not finished.
    A job that failed or was cancelled has no content, so its parts are null.
    """
    unknown = [part for part in expand if part not in _PARTS and part not in _NOT_CONTENT and not _is_metadata(part)]
    if unknown:
        raise ApiError(400, f"Unknown expand value: {', '.join(unknown)}")
    if job.tier == "fast" and {"markdown", "markdown_full"} & set(expand):
        raise ApiError(400, "The fast tier does not produce markdown")
    result: dict[str, Any] = {"job": job.shown()}
    if "job_metadata" in expand:
        result["job_metadata"] = {"error_code": job.error_code, "pages": job.page_count}
    parts = [part for part in expand if part in _PARTS]
    if parts and not job.finished:
        raise ApiError(404, f"Result of job {job.id} not found: its status is {job.status.value}")
    pages = load() if parts and job.status is Status.COMPLETED else None
    for part in parts:
        result[part] = None if pages is None else _PARTS[part](pages)
    return result


def _is_metadata(part: str) -> bool:
    return part.endswith("_content_metadata") or part in ("metadata", "forms")


def _failed(page: ParsedPage) -> dict[str, Any]:
    return {"page_number": page.number, "success": False, "error": page.error}


def _markdown(pages: list[ParsedPage]) -> dict[str, Any]:
    shown = [{"page_number": page.number, "success": True, "markdown": page.markdown} for page in pages]
    return {"pages": [_failed(page) if page.error else good for page, good in zip(pages, shown, strict=True)]}


def _text(pages: list[ParsedPage]) -> dict[str, Any]:
    return {"pages": [{"page_number": page.number, "text": page.text} for page in pages]}


def _items(pages: list[ParsedPage]) -> dict[str, Any]:
    """Each block of the Markdown as a text item: coarser than the vendor's, of the same shape."""
    shown = []
    for page in pages:
        blocks = [block for block in page.markdown.split("\n\n") if block.strip()]
        items = [{"type": "text", "md": block, "value": block} for block in blocks]
        shown.append({"page_number": page.number, "success": True, **_PAGE_SIZE, "items": items})
    return {"pages": [_failed(page) if page.error else good for page, good in zip(pages, shown, strict=True)]}


_PARTS: dict[str, Callable[[list[ParsedPage]], Any]] = {
    "markdown": _markdown,
    "text": _text,
    "items": _items,
    "markdown_full": lambda pages: "\n\n".join(page.markdown for page in pages if not page.error),
    "text_full": lambda pages: "\n\n".join(page.text for page in pages if not page.error),
}
