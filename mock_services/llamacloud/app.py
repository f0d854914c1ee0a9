"""The LlamaCloud application: authentication, routes, and what holds it together."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mock_services.calls import CallCounter
from mock_services.control import control_routes
from mock_services.exchange import Exchange
from mock_services.faults import FaultBook
from mock_services.llamacloud.endpoints import Endpoints
from mock_services.llamacloud.errors import ApiError, scripted_error
from mock_services.llamacloud.runner import JobRunner
from mock_services.llamacloud.store import Store
from mock_services.llamacloud.webhooks import WebhookSender

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class LlamaCloudOptions:
    """parse_seconds: what each parse takes at least; parse_timeout: after which it fails; both in seconds."""

    state_directory: Path
    parse_seconds: float = 0.0
    parse_timeout: float = 300.0
    max_pages: int = 5_000
    max_upload_bytes: int = 512 * 2**20
    webhook_retry_seconds: tuple[float, ...] = (1.0, 2.0)
    workers: int = 2


def create_llamacloud_app(options: LlamaCloudOptions) -> Starlette:
    """The application; unfinished jobs in its state directory are taken up when it starts."""
    faults, calls = FaultBook(), CallCounter()
    store = Store(options.state_directory)
    exchange = Exchange(faults, calls, scripted_error)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sender = WebhookSender(faults, calls, options.webhook_retry_seconds)
        runner = JobRunner(
            store,
            sender,
            faults,
            parse_seconds=options.parse_seconds,
            parse_timeout=options.parse_timeout,
            max_pages=options.max_pages,
            workers=options.workers,
        )
        endpoints.runner = runner
        runner.resume()
        yield
        await runner.stop()
        await sender.close()

    async def forget_state() -> None:
        for job in list(store.jobs.values()):
            endpoints.runner.forget(job)
        store.clear()

    endpoints = Endpoints(store, exchange, options.max_upload_bytes)
    table: list[tuple[str, str, Endpoint]] = [
        ("POST", "/api/v1/beta/files", endpoints.create_file),
        ("POST", "/api/v2/parse", endpoints.create_parse_job),
        ("POST", "/api/v2/parse/upload", endpoints.upload_and_parse),
        ("GET", "/api/v2/parse", endpoints.list_parse_jobs),
        ("GET", "/api/v2/parse/versions", endpoints.list_versions),
        ("GET", "/api/v2/parse/{job_id}", endpoints.get_parse_job),
        ("POST", "/api/v2/parse/{job_id}/cancel", endpoints.cancel_parse_job),
        ("DELETE", "/api/v2/parse/{job_id}", endpoints.delete_parse_job),
    ]
    routes = [
        Route(path, _guarded(endpoint, store, calls), methods=[method], name=endpoint.__name__)
        for method, path, endpoint in table
    ]
    return Starlette(routes=[*routes, *control_routes(faults, calls, forget_state)], lifespan=lifespan)


def _guarded(endpoint: Endpoint, store: Store, calls: CallCounter) -> Endpoint:
    """An endpoint behind the checks of key and project, its refusals as responses."""

    async def guarded(request: Request) -> Response:
        try:
            check_key(request.headers.get("authorization"))
            if request.query_params.get("project_id", store.project_id) != store.project_id:
                raise ApiError(403, "You do not have access to this project")
            return await endpoint(request)
        except ApiError as error:
            with calls.in_flight(endpoint.__name__) as count:
                count.statuses[str(error.status)] += 1
            return error.response()

    return guarded


def check_key(authorization: str | None) -> None:
    """Accept any bearer key that looks like the vendor's; ApiError 401 otherwise."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.startswith("llx-"):
        raise ApiError(401, "Invalid API key: missing, revoked, or of another region")
