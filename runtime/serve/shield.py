"""What holds for every request, before it reaches a call: names, headers, the log."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cir_rt.serve.log import say
from cir_rt.serve.problem import MEDIA_TYPE, Problem
from cir_rt.serve.telemetry import Telemetry

ROUTE, NUMBER = "cir_rt.route", "cir_rt.number"  # in a request's scope

_CONTENT = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_PERMISSIONS = "camera=(self), microphone=({}), geolocation=(), payment=(), usb=()"
HEADERS = {
    "Content-Security-Policy": _CONTENT,
    "Permissions-Policy": _PERMISSIONS.format(""),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_A_YEAR_OF_TLS = "max-age=31536000"


class Shield:
    """Refuses requests that a foreign page made, adds the headers, notes each answer."""

    def __init__(
        self,
        app: ASGIApp,
        telemetry: Telemetry,
        *,
        names: Sequence[str] | None,
        tls: bool,
        speech: bool,
    ) -> None:
        """Take the names that this server answers under; None is any."""
        self._app = app
        self._telemetry = telemetry
        self._names = names
        self._headers = dict(HEADERS)
        if tls:
            self._headers["Strict-Transport-Security"] = _A_YEAR_OF_TLS
        if speech:
            self._headers["Permissions-Policy"] = _PERMISSIONS.format("self")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0
        number = scope[NUMBER] = secrets.token_hex(8)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers["X-Request-Id"] = number
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            self._check_names(Headers(scope=scope))
        except Problem as problem:
            answer = problem_response(problem, number, self._telemetry)
            await answer(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)
        seconds = time.perf_counter() - begun
        route, method = scope.get(ROUTE, "none"), _method(scope)
        self._telemetry.request(route, method, status, seconds)
        ms = round(1000 * seconds, 2)
        say("request", request=number, method=method, route=route, status=status, ms=ms)

    def _check_names(self, headers: Headers) -> None:
        """Raise Problem for what only a page of another site would send.

        Such a page can make the browser of this very machine ask: under a name of its own that it
        lets point here, or with a form.
        """
        host = headers.get("host", "")
        if self._names is not None and _name(host) not in self._names:
            raise Problem(
                "misdirected",
                f"Expected the name {' or '.join(self._names)}. To answer under others, start it "
                "with --token-file.",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise Problem("forbidden", "The request was made by a page of another site.")


def problem_response(problem: Problem, number: str, telemetry: Telemetry) -> Response:
    """Return the answer to a request that is refused, and count it."""
    telemetry.refusal(problem.kind)
    return Response(
        problem.body(number), problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def _name(host: str) -> str:
    """Return the name of a Host header, without port and brackets; "" for what is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _method(scope: Scope) -> str:
    """Return the method, one name for all that are made up: each is a row of figures for ever."""
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"
