"""How one fixed-size row of numbers lies in a segment: FP32, FP16, or INT8 with its scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cir_rt.errors import GalleryError, UsageError

PRECISIONS = {"fp32": "f32", "fp16": "f16", "int8": "i8"}  # and the suffix of their files

_INT8_MAX = 127


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """A row as it is stored: little-endian numbers, in INT8 behind their FP32 scales.

    INT8 is symmetric, number = code * scale, with one scale for each run of the last axis: one for
    a vector, one for each of a picture's tokens.
    """

    precision: str  # one of PRECISIONS
    shape: tuple[int, ...]  # (dim,) of a vector, (tokens, width) of a picture's tokens

    def __post_init__(self) -> None:
        """Refuse a precision that is not known."""
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"precision {self.precision!r}. Expected one of {', '.join(PRECISIONS)}."
            )

    @cached_property
    def dtype(self) -> np.dtype:
        """The type of one stored row."""
        if self.precision == "int8":
            scales = ("scales", "<f4", self.shape[:-1])
            return np.dtype([scales, ("codes", "i1", self.shape)])
        return np.dtype(("<f4" if self.precision == "fp32" else "<f2", self.shape))

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row."""
        return self.dtype.itemsize

    @property
    def suffix(self) -> str:
        """The suffix of a file of such rows."""
        return PRECISIONS[self.precision]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of one row in an array of rows."""
        return tuple(range(1, 1 + len(self.shape)))

    def empty(self, rows: int) -> np.ndarray:
        """Return rows to be filled."""
        return np.empty(rows, self.dtype)

    def encode(self, values: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, *shape) float32 as rows are stored; GalleryError for what FP16 cannot hold."""
        numbers = np.asarray(values, np.float32).reshape(-1, *self.shape)
        if self.precision == "int8":
            rows = self.empty(len(numbers))
            scales = np.abs(numbers).max(axis=-1, initial=0) / np.float32(_INT8_MAX)
            codes = np.rint(numbers / np.where(scales > 0, scales, 1)[..., None])
            rows["scales"], rows["codes"] = scales, codes.clip(-_INT8_MAX, _INT8_MAX)
            return rows
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(numbers, self.dtype.base)
        if not np.isfinite(stored).all():
            raise GalleryError(
                f"numbers up to {np.abs(numbers).max():.3g} do not fit {self.precision}. "
                "Expected vectors of unit length, or a gallery of precision fp32."
            )
        return stored

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """Return stored rows, or one of them, as float32; FP32 is handed on as it lies."""
        if self.precision == "int8":
            return rows["codes"] * rows["scales"][..., None]
        return rows.astype(np.float32, copy=False)
