"""A matrix on the GPU as a kernel takes it: where it lies, how far its rows are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cir_rt.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Operand:
    """Rows of numbers that lie side by side; a vector is a matrix of one column."""

    address: int
    rows: int
    columns: int
    stride: int  # numbers from a row to the next
    dtype: np.dtype


def operand(
    array: Any,
    name: str,
    dtypes: Sequence[Any],
    *,
    rows: int | None = None,
    columns: int | None = None,
    alignment: int = 1,
    gaps: bool = True,
) -> Operand:
    """Return a CUDA array (`__cuda_array_interface__`) as an operand.

    Raises UsageError, with the name, for another type, shape, layout or alignment in bytes, and
    where rows are apart but may not be (`gaps`).
    """
    facts = getattr(array, "__cuda_array_interface__", None)
    if facts is None:
        raise UsageError(f"{name} is a {type(array).__name__}. Expected an array on the GPU.")
    shape, dtype = tuple(facts["shape"]), np.dtype(facts["typestr"])
    wanted = [np.dtype(kind) for kind in dtypes]
    if len(shape) not in (1, 2) or dtype not in wanted:
        raise UsageError(
            f"{name} is {shape} {dtype}. Expected one or two dimensions of "
            f"{' or '.join(map(str, wanted))}."
        )
    count, width = shape if len(shape) == 2 else (shape[0], 1)
    if rows not in (None, count) or columns not in (None, width):
        told = "any" if columns is None else columns
        raise UsageError(f"{name} is {shape}. Expected {rows or 'any'} rows of {told} numbers.")
    strides = facts.get("strides") or (width * dtype.itemsize, dtype.itemsize)[: len(shape)]
    stride = strides[0] // dtype.itemsize
    dense = len(shape) == 1 or width == 1 or strides[1] == dtype.itemsize
    if not dense or strides[0] % dtype.itemsize or (count > 1 and stride < width):
        raise UsageError(f"{name} has strides {strides}. Expected numbers of a row side by side.")
    if not gaps and count > 1 and stride != width:
        raise UsageError(f"{name} has rows {stride} apart. Expected {width}: no gaps between rows.")
    address = int(facts["data"][0])
    if address % max(alignment, dtype.itemsize) or strides[0] % alignment:
        raise UsageError(
            f"{name} begins at {address:#x} with {strides[0]} bytes a row. "
            f"Expected multiples of {max(alignment, dtype.itemsize)}."
        )
    return Operand(address=address, rows=count, columns=width, stride=stride, dtype=dtype)
