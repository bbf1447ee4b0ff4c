"""From settings to an open port, and gracefully back."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cir_rt.errors import UsageError
from cir_rt.serve import log
from cir_rt.serve.app import create_app
from cir_rt.serve.service import Service
from cir_rt.serve.settings import ServeSettings
from cir_rt.serve.systemd import Systemd

HEADER_BYTES = 32 * 1024  # of all of a request's headers
GRACE_S = 35  # for what was accepted when the server is told to stop
IDLE_S = 60


def serve(settings: ServeSettings, opened: Callable[[str, Service], None]) -> None:
    """Serve until SIGINT or SIGTERM; `opened` is told the URL when requests may come.

    SIGHUP takes a new release and new tokens. The port opens when everything is warm. Raises
    UsageError for a port that cannot be had, and what `Retriever.open` does.
    """
    settings.check_tls()
    log.to_stderr()
    listening = _bound(settings)  # a port that is taken is told of before the engines are loaded
    with listening:
        service = Service(settings)
        server = _Server(settings, service, lambda: opened(_url(settings, listening), service))
        # uvicorn gives the signal that stopped it back to what stood here, once it has finished.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """uvicorn with the settings' limits, a reload on SIGHUP, and word to systemd."""

    def __init__(
        self, settings: ServeSettings, service: Service, opened: Callable[[], None]
    ) -> None:
        limits = settings.limits
        config = uvicorn.Config(
            create_app(service),
            http=protocol(limits.header_s),
            ws="none",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # anybody may claim to be forwarded
            limit_concurrency=limits.connections,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=HEADER_BYTES,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        super().__init__(config)
        self._service = service
        self._opened = opened
        self._systemd = Systemd()
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port and say so."""
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, lambda: self._begin(self._reload())
        )
        self._begin(self._systemd.watch(self._service.pulse))
        self._systemd.notify("READY=1")
        self._opened()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and finish what was accepted."""
        self._service.ready = False
        self._systemd.notify("STOPPING=1")
        log.say("stopping", waiting=self._service.batcher.admitted)
        for task in self._tasks:
            task.cancel()
        await super().shutdown(sockets)
        log.say("stopped")

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        try:
            await self._service.reload()
        except Exception as error:  # the old release goes on
            log.fault(error, "reload")
        else:
            log.say("reloaded", generation=(await self._service.shelf.state()).generation)


def protocol(header_s: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with a limit on the seconds that a header may take."""

    class Impatient(H11Protocol):
        """Closes a connection that is slow to say what it wants."""

        _due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._due = self.loop.call_later(header_s, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._forget()
            elif self._due is None:  # the next request of this connection has begun to come
                self._due = self.loop.call_later(header_s, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _forget(self) -> None:
            if self._due is not None:
                self._due.cancel()
                self._due = None

    return Impatient


def _bound(settings: ServeSettings) -> socket.socket:
    """Return a socket of the settings' host and port that does not listen yet."""
    try:
        (family, kind, proto, _, address), *_ = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        bound = socket.socket(family, kind, proto)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError, AttributeError):  # "::" is to be IPv6 alone, as it says
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"--host {settings.host} --port {settings.port}: {error}. Choose another, or --port 0 "
            "for any free one."
        ) from error
    return bound


def _url(settings: ServeSettings, listening: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{host}:{listening.getsockname()[1]}"
