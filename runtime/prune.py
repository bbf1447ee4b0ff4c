"""Prune: the rows of a gallery that score best, among those that a condition allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from cir_rt.gallery import Gallery
from cir_rt.gallery.condition import compiled
from cir_rt.gallery.current import CurrentIndex
from cir_rt.gallery.where import parse

MASKS = 16  # conditions whose rows are remembered, a byte a row


class Pruner:
    """A gallery and the index over it, which move to a new generation together.

    Owned by one thread at a time.
    """

    def __init__(
        self,
        gallery: Gallery,
        *,
        index: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        """Take a gallery, and the kind of its index. Raises UsageError and BackendMissing."""
        self.gallery = gallery
        self._index = CurrentIndex(gallery, index, device=device, threads=threads)
        self._masks: OrderedDict[str, np.ndarray] = OrderedDict()  # by condition, latest used last
        self._segment = gallery.segment

    @property
    def index(self) -> str:
        """The kind of index that answers now."""
        return self._index.kind

    def refresh(self) -> bool:
        """Move to the newest generation and index; True where there is a new generation."""
        moved = self.gallery.refresh()
        if self.gallery.segment != self._segment:  # rows were renumbered
            self._masks.clear()
            self._segment = self.gallery.segment
        self._index.follow(self.gallery)
        return moved

    def newest(self) -> Gallery:
        """Return the gallery at its newest generation."""
        self.refresh()
        return self.gallery

    def allowed(self, where: str | None) -> np.ndarray:
        """Return the live rows that meet a condition: (rows,) bool. Raises UsageError.

        A row never changes, so that each is held against a condition once.
        """
        live = self.gallery.live
        if where is None:
            return live
        met = self._masks.pop(where, None)
        if met is None or len(met) < len(live):
            met = self._extended(np.zeros(0, bool) if met is None else met, where)
        self._masks[where] = met
        if len(self._masks) > MASKS:
            self._masks.popitem(last=False)
        return met & live

    def search(
        self,
        queries: np.ndarray,
        k: int,
        allowed: np.ndarray,
        exclude: Sequence[int | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, scores) of the best k allowed rows, as `Index.search` states."""
        return self._index.search(queries, k, allowed, exclude=exclude)

    def close(self) -> None:
        """Close the gallery, and free what its index holds of a GPU."""
        self._index.close()
        self.gallery.close()

    def _extended(self, met: np.ndarray, where: str) -> np.ndarray:
        """Return which rows meet a condition, the first of them as they are known."""
        condition, values = compiled(parse(where))
        longer = np.zeros(len(self.gallery.live), bool)
        longer[: len(met)] = met
        longer[self.gallery.matching(f"row >= ? AND ({condition})", [len(met), *values])] = True
        return longer
