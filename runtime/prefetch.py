"""Rows read ahead of their use, so that the disk works while the engine does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

Parts = tuple[np.ndarray, ...]  # arrays over the same rows
Read = Callable[[int, int], Parts]


class Prefetch:
    """Reads rows in a thread of its own, one run ahead of what was asked for.

    Rows are asked for in order, each once. In memory are the rows of two runs, however many there
    are in all. Used in a `with`, whose end waits for the thread.
    """

    def __init__(self, read: Read, count: int, first: int) -> None:
        """Begin to read the `first` of `count` rows; `read(start, stop)` runs in the thread."""
        self._read, self._count = read, count
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._begun = 0  # rows before this one were read, or are being read
        self._kept: list[Parts] = []  # read before they were asked for
        self._coming: list[Future[Parts]] = []
        self._begin(first)

    def __call__(self, start: int, stop: int) -> Parts:
        """Return rows start to stop as `read` does, and begin as many behind them."""
        self._begin(stop)
        pieces = [*self._kept, *(future.result() for future in self._coming)]
        whole = _joined(pieces)
        rows = stop - start
        self._kept = [tuple(part[rows:] for part in whole)] if self._begun > stop else []
        self._coming = []
        self._begin(stop + rows)
        return tuple(part[:rows] for part in whole)

    def _begin(self, stop: int) -> None:
        """Begin to read what is not begun of the rows before `stop`."""
        start, self._begun = self._begun, max(self._begun, min(self._count, stop))
        if self._begun > start:
            self._coming.append(self._thread.submit(self._read, start, self._begun))

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)


def _joined(pieces: Sequence[Parts]) -> Parts:
    """Return the rows of all pieces; of a single one without a copy."""
    if len(pieces) == 1:
        return pieces[0]
    return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))
