"""Telling systemd that the server is ready, and that it lives (sd_notify(3))."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from cir_rt.serve import log

_SIGNS_A_PERIOD = 3


class Systemd:
    """The socket and the watchdog's period that the environment names; without one, nothing."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Read NOTIFY_SOCKET and WATCHDOG_USEC."""
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._period_s = int(environment.get("WATCHDOG_USEC", "0")) / 1e6

    def notify(self, state: str) -> None:
        """Send a state: READY=1, STOPPING=1, WATCHDOG=1."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), address)

    async def watch(self, pulse: Callable[[], Awaitable[None]]) -> None:
        """Give a sign of life as often as is asked for, each after a pulse; until cancelled.

        Where the pulse fails or stands still there is no sign, and systemd starts the server anew.
        """
        while self._address and self._period_s:
            try:
                await pulse()
                self.notify("WATCHDOG=1")
            except Exception as error:
                log.fault(error, "pulse")
            await asyncio.sleep(self._period_s / _SIGNS_A_PERIOD)
