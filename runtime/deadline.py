"""A deadline, and the pace of an engine that tells what can be done before it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

_EASE = 0.7  # of an old estimate that stays when a run was faster, or when it forbade a run


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """The instant at which an answer is due, on `time.perf_counter`; infinity: never."""

    at_s: float = math.inf

    @property
    def left_ms(self) -> float:
        """Milliseconds until then, below 0 when it is over."""
        return 1000 * (self.at_s - time.perf_counter())


class Pace:
    """How long an engine takes for a row, as its last runs went."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.ms_per_row: float | None = None

    def took(self, rows: int, ms: float) -> None:
        """Learn from a run: a slower one is believed at once, a faster one by and by."""
        new, old = ms / rows, self.ms_per_row
        self.ms_per_row = new if old is None or new > old else _EASE * old + (1 - _EASE) * new

    def fitting(self, sizes: Sequence[int], deadline: Deadline) -> int:
        """Return the largest of some run sizes that should end in time, 0 where none does.

        Where no run was seen yet, the smallest is tried.
        """
        left_ms = deadline.left_ms
        if left_ms <= 0:
            return 0
        if left_ms == math.inf:
            return max(sizes)
        if self.ms_per_row is None:
            return min(sizes)
        rate = self.ms_per_row
        found = max((size for size in sizes if size * rate <= left_ms), default=0)
        if not found:  # no run would ever correct an estimate that forbids them all
            self.ms_per_row *= _EASE
        return found
