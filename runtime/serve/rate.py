"""How often one client may ask: a bucket that fills steadily and is emptied by asking."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

CLIENTS = 4096  # buckets remembered, the latest used


class Rate:
    """`rate` requests a second for each client, twice as many at once; 0 is no limit."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the rate, and what tells the seconds."""
        self._rate = rate
        self._burst = max(1.0, 2 * rate)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # level, at

    def take(self, client: str) -> int:
        """Count a request; return 0, or the seconds to wait where the client asks too often."""
        if not self._rate:
            return 0
        now = self._clock()
        level, at = self._buckets.pop(client, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        allowed = level >= 1
        self._buckets[client] = (level - allowed, now)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if allowed else math.ceil((1 - level) / self._rate)
