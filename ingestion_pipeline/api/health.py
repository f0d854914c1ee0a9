"""The endpoints of whoever watches the process: does it live, and can it work?"""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated

import anyio
import structlog
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response

from ingestion_pipeline.api.schemas import Health, PartStatus, Readiness
from ingestion_pipeline.api.services import ApiServices
from ingestion_pipeline.errors import IngestionError, TransientError
from ingestion_pipeline.remedies import remedy_for

WATCHING_THREADS = 4

router = APIRouter(tags=["health"])
log = structlog.get_logger(__name__)


class ReadinessCheck:
    """Asks each part that the API needs, at most once in `fresh_seconds`: the check of the store costs."""

    def __init__(self, services: ApiServices, *, fresh_seconds: float = 2.0) -> None:
        self._services = services
        self._fresh_seconds = fresh_seconds
        self._turn = asyncio.Lock()
        self._threads = anyio.CapacityLimiter(WATCHING_THREADS)
        self._parts: dict[str, PartStatus] = {}
        self._fresh_until = 0.0

    async def parts(self) -> dict[str, PartStatus]:
        """The state of each part, by name, within `readiness_seconds`."""
        async with self._turn:
            if time.monotonic() >= self._fresh_until:
                self._parts = await self._ask()
                self._fresh_until = time.monotonic() + self._fresh_seconds
            return self._parts

    async def _ask(self) -> dict[str, PartStatus]:
        database_error, store_error = await asyncio.gather(
            self._check("database", self._services.catalogue.check),
            self._check("object_store", self._services.objects.check),
        )
        is_away = isinstance(database_error, TransientError)
        return {
            "database": _status(database_error if is_away else None),
            "schema": _status(database_error),
            "object_store": _status(store_error),
        }

    async def _check(self, part: str, check: Callable[[], None]) -> IngestionError | None:
        seconds = self._services.readiness_seconds
        try:
            with anyio.fail_after(seconds):
                await run_sync(check, abandon_on_cancel=True, limiter=self._threads)
        except IngestionError as error:
            log.warning("not ready", part=part, code=error.code, reason=error.message)
            return error
        except TimeoutError:
            log.warning("not ready", part=part, code="no_answer", seconds=seconds)
            return TransientError("no answer", code="no_answer")
        return None


def _status(error: IngestionError | None) -> PartStatus:
    return (
        PartStatus(ok=True) if error is None else PartStatus(ok=False, code=error.code, remedy=remedy_for(error.code))
    )


def _checks(request: Request) -> ReadinessCheck:
    checks: ReadinessCheck = request.app.state.readiness
    return checks


@router.get("/healthz", summary="Does the process live?")
async def healthz() -> Health:
    """Asks nobody."""
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="Can the API work?",
    responses={503: {"model": Readiness, "description": "A part fails; `parts` says which."}},
)
async def readyz(response: Response, checks: Annotated[ReadinessCheck, Depends(_checks)]) -> Readiness:
    """Asks the database, looks for its schema, and asks the object store."""
    parts = await checks.parts()
    is_ready = all(part.ok for part in parts.values())
    if not is_ready:
        response.status_code = 503
    return Readiness(ready=is_ready, parts=parts)
