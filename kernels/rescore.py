"""Exact scores of a few rows on a GPU: one launch of rescore.cu."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from cir_rt.errors import UsageError
from cir_rt.kernels.cuda import Device, Module, Stream
from cir_rt.kernels.operand import operand
from cir_rt.kernels.scan import Found

MAX_CANDIDATES = 1024

_THREADS, _SLICE = 256, 32  # candidates of a block
_NAMES = {np.dtype("f4"): "f32", np.dtype("f2"): "f16"}
_SHARED_BYTES = 8 * MAX_CANDIDATES + 16


class Arguments(ctypes.Structure):
    """RescoreArguments of rescore.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("queries", "rows", "candidates", "keys")),
        *((name, ctypes.c_void_p) for name in ("arrivals", "found", "scores")),
        ("query_stride", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        *((name, ctypes.c_int) for name in ("batch", "dim", "count", "k")),
    ]


class Rescore:
    """Scores candidates in full precision and puts them in their final order.

    NOTE: the scratch memory is one launch's: calls on two streams must not overlap.
    """

    def __init__(
        self, device: Device, module: Module, *, dim: int, batch: int, candidates: int, k: int
    ) -> None:
        """Make room for `candidates` of each of up to `batch` queries. Raises UsageError."""
        if not 0 < k <= candidates <= MAX_CANDIDATES or batch < 1 or dim < 1:
            raise UsageError(
                f"k {k} of {candidates} candidates, batch {batch}, dim {dim}. Expected 1 or more, "
                f"k up to the candidates and these up to {MAX_CANDIDATES}."
            )
        self.dim, self.batch, self.candidates, self.k = dim, batch, candidates, k
        self._keys = device.allocate(8 * batch * candidates)
        self._arrivals = device.upload(np.zeros(batch, np.uint32))
        self._functions = {x: module.function(f"rescore_{name}") for x, name in _NAMES.items()}

    def __call__(
        self, queries: Any, rows: Any, candidates: Any, out: Found, stream: Stream
    ) -> None:
        """Queue the scores of candidates (n, candidates) int32 of n queries into `out`, (n, k).

        queries is (n, dim) float32, rows (m, dim) float32 or float16; candidates are rows, -1 for
        none. Raises UsageError for what does not fit. Nothing is allocated or waited for.

        NOTE: that candidates are below m is not checked.
        """
        asked = operand(queries, "queries", ["<f4"], columns=self.dim)
        if not 0 < asked.rows <= self.batch:
            raise UsageError(f"{asked.rows} queries. Expected 1 to {self.batch}.")
        stored = operand(rows, "rows", list(_NAMES), columns=self.dim)
        shape: dict[str, Any] = {"rows": asked.rows, "columns": self.k, "gaps": False}
        each = {**shape, "columns": self.candidates}
        arguments = Arguments(
            queries=asked.address,
            rows=stored.address,
            candidates=operand(candidates, "candidates", ["<i4"], **each).address,
            keys=self._keys.address,
            arrivals=self._arrivals.buffer.address,
            found=operand(out.rows, "out.rows", ["<i4"], **shape).address,
            scores=operand(out.scores, "out.scores", ["<f4"], **shape).address,
            query_stride=asked.stride,
            row_stride=stored.stride,
            batch=asked.rows,
            dim=self.dim,
            count=self.candidates,
            k=self.k,
        )
        self._functions[stored.dtype].launch(
            stream,
            arguments,
            grid=(-(-self.candidates // _SLICE), asked.rows),
            threads=_THREADS,
            shared_bytes=_SHARED_BYTES,
        )
