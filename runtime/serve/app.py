"""The calls by path and method, and who may make them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cir_rt.serve import calls, log
from cir_rt.serve.assets import Asset, assets
from cir_rt.serve.openapi import document
from cir_rt.serve.problem import Problem
from cir_rt.serve.service import Service
from cir_rt.serve.settings import LOCAL_NAMES, ServeSettings
from cir_rt.serve.shield import NUMBER, ROUTE, Shield, problem_response
from cir_rt.serve.telemetry import MEDIA_TYPE

Handler = Callable[[Service, Request], Awaitable[Response]]

HUNG_UP = 499  # nobody reads it; it stands in the log
_ASK = {"WWW-Authenticate": 'Bearer realm="cir-rt"'}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call: what does it, which token may make it, and whether it counts towards the rate."""

    handler: Handler
    scope: str | None = None  # None: anyone
    counted: bool = False


def create_app(service: Service) -> ASGIApp:
    """Return the application; it starts and stops the service with its own lifespan."""
    settings = service.settings
    routes = [
        _route(service, path, found)
        for path, found in {**_calls(service), **_pages(settings)}.items()
    ]  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = "method" if error.status_code == 405 else "not-found"
        problem = Problem(kind, str(error.detail), headers=error.headers)
        return problem_response(problem, request.scope[NUMBER], service.telemetry)

    app = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={HTTPException: refused}
    )  # fmt: skip
    app.router.redirect_slashes = False
    names = None if settings.token_file else (*LOCAL_NAMES, settings.host)
    return Shield(
        app,
        service.telemetry,
        names=names,
        tls=settings.tls_cert is not None,
        speech=settings.kiosk.speech,
    )


def _calls(service: Service) -> dict[str, dict[str, Call]]:
    async def metrics(service: Service, _: Request) -> Response:
        text = service.telemetry.text(await service.shelf.state())
        return Response(text, headers={"Content-Type": MEDIA_TYPE})

    described = document(service.settings)

    async def openapi(_: Service, __: Request) -> Response:
        return JSONResponse(described)

    return {
        "/v1/search": {"POST": Call(handler=calls.search, scope="search", counted=True)},
        "/v1/items": {
            "GET": Call(handler=calls.items, scope="search", counted=True),
            "POST": Call(handler=calls.add, scope="gallery", counted=True),
        },
        # An id may hold slashes, so that what ends in /image comes first.
        "/v1/items/{id:path}/image": {"GET": Call(handler=calls.image, scope="search")},
        "/v1/items/{id:path}": {
            "DELETE": Call(handler=calls.delete, scope="gallery", counted=True)
        },
        "/health": {"GET": Call(handler=calls.health)},
        "/ready": {"GET": Call(handler=calls.ready)},
        "/metrics": {"GET": Call(handler=metrics, scope="search")},
        "/openapi.json": {"GET": Call(handler=openapi)},
    }


def _pages(settings: ServeSettings) -> dict[str, dict[str, Call]]:
    def shown(asset: Asset) -> Handler:
        async def show(_: Service, request: Request) -> Response:
            return await asset.answer(request)

        return show

    told = settings.kiosk.to_json(
        token=settings.token_file is not None, text_characters=settings.limits.text_characters
    )
    found = {**assets(), "/page/settings.json": Asset.of(json.dumps(told).encode(), ".json")}
    return {path: {"GET": Call(handler=shown(asset))} for path, asset in found.items()}


def _route(service: Service, path: str, found: Mapping[str, Call]) -> Route:
    """Return the route of a path: each request is let in, or refused with a problem."""

    async def answer(request: Request) -> Response:
        request.scope[ROUTE] = path
        number = request.scope[NUMBER]
        call = found["GET" if request.method == "HEAD" else request.method]
        try:
            let_in(service, request, call)
            return await call.handler(service, request)
        except ClientDisconnect:
            return Response(status_code=HUNG_UP)
        except Exception as error:
            problem = Problem.of(error)
            if problem.status >= 500 and problem.kind != "busy":
                log.fault(error, number)
            return problem_response(problem, number, service.telemetry)

    return Route(path, answer, methods=list(found))


def let_in(service: Service, request: Request, call: Call) -> None:
    """Raise Problem where a request has no token for a call, or comes too often."""
    client, refusal = request.client.host if request.client else "unknown", None
    if service.tokens is not None and call.scope is not None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        grant = service.tokens.grant(token.strip()) if scheme.lower() == "bearer" else None
        if grant is None:
            refusal = Problem("unauthorized", "Send  Authorization: Bearer TOKEN", headers=_ASK)
        elif call.scope not in grant.scopes:
            refusal = Problem("forbidden", f"This token is not for {call.scope}.")
        else:
            client = grant.name
    wait_s = service.rate.take(client) if call.counted or refusal else 0
    if wait_s:
        raise Problem("too-often", "Ask less often.", retry_after_s=wait_s)
    if refusal is not None:
        raise refusal
