"""The control endpoints of an application: script faults, read counters, reset. No vendor has them."""

from collections.abc import Awaitable, Callable

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mock_services.calls import CallCounter
from mock_services.faults import FaultBook, ScriptedFault


def control_routes(
    faults: FaultBook, calls: CallCounter, forget_state: Callable[[], Awaitable[None]] | None = None
) -> list[Route]:
    """Routes under `/_control`, and `/healthz`.

    A reset forgets faults and counters; with `{"state": true}` in its body also what the application keeps.
    """

    async def script(request: Request) -> Response:
        try:
            fault = ScriptedFault.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"detail": error.errors(include_url=False, include_context=False)}, 422)
        return JSONResponse(faults.script(fault).model_dump(mode="json"), 201)

    async def listing(_: Request) -> Response:
        return JSONResponse({"faults": [fault.model_dump(mode="json") for fault in faults.listing()]})

    async def clear(_: Request) -> Response:
        faults.clear()
        return Response(status_code=204)

    async def report(_: Request) -> Response:
        return JSONResponse(calls.report())

    async def reset(request: Request) -> Response:
        body = await request.body()
        faults.clear()
        calls.reset()
        if body and (await request.json()).get("state") and forget_state is not None:
            await forget_state()
        return Response(status_code=204)

    async def healthy(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return [
        Route("/_control/faults", script, methods=["POST"]),
        Route("/_control/faults", listing, methods=["GET"]),
        Route("/_control/faults", clear, methods=["DELETE"]),
        Route("/_control/calls", report, methods=["GET"]),
        Route("/_control/reset", reset, methods=["POST"]),
        Route("/healthz", healthy, methods=["GET"]),
    ]
