"""A gallery's vectors as searches read them: float32, whatever lies on disk."""

from __future__ import annotations

import os
import weakref
from typing import Any

import numpy as np

from cir_rt.gallery.segment import Segment

_READ_ROWS = 256  # up to so many scattered rows are read, more are taken from the map


class Vectors:
    """Rows of a segment, read only, indexed by row like a (rows, dim) float32 array.

    A slice of FP32 rows is the mapped file itself, nothing copied; rows of FP16 and INT8 are
    decoded as they are asked for. `np.asarray` decodes them all. A few scattered rows, such as the
    candidates of an index, are read from the file: through the map each would bring its neighbours
    along (Linux maps 16 pages around it), and all of the file would come to stand in memory.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, segment: Segment, rows: int) -> None:
        """Map the first rows of a segment. Raises GalleryError where it is missing or short."""
        self._stored = segment.map(rows)
        self._format = segment.format
        self._segment, self._file = segment, segment.open()
        weakref.finalize(self, os.close, self._file)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim)."""
        return len(self._stored), self._format.shape[0]

    @property
    def precision(self) -> str:
        """What lies on disk: fp32, fp16 or int8."""
        return self._format.precision

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        """Return rows by number, slice, numbers or mask: (n, dim) float32, (dim,) for a number."""
        if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and self._few(rows):
            return self._format.decode(self._segment.read(self._file, rows.tolist()))
        return self._format.decode(self._stored[rows])

    def _few(self, rows: np.ndarray) -> bool:
        """Tell whether to read them; what is out of range is left for the map to refuse."""
        few = rows.ndim == 1 and 0 < len(rows) <= _READ_ROWS
        return few and rows.min() >= 0 and rows.max() < len(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self[:]
        return found.copy() if copy else found.astype(dtype or np.float32, copy=False)

    def __repr__(self) -> str:
        return f"Vectors(shape={self.shape}, precision={self.precision})"
