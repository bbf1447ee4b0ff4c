"""The scan on a GPU: the best k of all rows for each query, two launches of scan.cu."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from cir_rt.errors import UsageError
from cir_rt.kernels.cuda import Device, DeviceArray, Module, Stream
from cir_rt.kernels.operand import Operand, operand

MAX_K, MAX_ROWS = 1024, 1 << 30

_THREADS, _MERGE_THREADS = 256, 512
_BLOCK_ROWS = 256  # fewer are not worth a block
_ROOM = 1024  # QUEUE_ROOM of queue.cuh
_QUERY_BYTES = 20  # shared memory of a queue, and a scale
_SHARED_BYTES = 48 << 10  # what any GPU gives without being asked for more
_MERGE_BYTES = MAX_K * 8 + 260 * 4


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How rows and queries are written."""

    dtype: np.dtype
    piece: int  # numbers that a row is a multiple of
    per_number: int  # dimensions in a number
    kernels: dict[int, int]  # queries of one reading of the rows: blocks of a multiprocessor
    scaled: bool = False


_PRODUCTS = {8: 2, 16: 2, 32: 2, 64: 1}
PRECISIONS = {
    "f16": Precision(dtype=np.dtype("<f2"), piece=32, per_number=1, kernels=_PRODUCTS),
    "i8": Precision(dtype=np.dtype("|i1"), piece=64, per_number=1, kernels=_PRODUCTS, scaled=True),
    "b1": Precision(dtype=np.dtype("<u4"), piece=4, per_number=32, kernels={64: 2}),
}


class Arguments(ctypes.Structure):
    """ScanArguments of scan.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("queries", "query_scales", "rows", "row_scales")),
        *((name, ctypes.c_void_p) for name in ("count", "live", "exclude", "keys", "counts")),
        *((name, ctypes.c_void_p) for name in ("best", "found", "scores")),
        ("row_stride", ctypes.c_int64),
        *((name, ctypes.c_int) for name in ("query_stride", "query_length", "row_bytes", "dim")),
        *((name, ctypes.c_int) for name in ("batch", "k", "queue", "blocks")),
    ]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What is searched, on the GPU; `count` and `live` may change between launches of a graph."""

    numbers: Any  # (capacity, padded) float16, int8 or uint32: as `padded` lays them out
    count: Any  # (1,) int32: rows that there are
    scales: Any = None  # (capacity,) float32, of int8
    live: Any = None  # (capacity / 32, rounded up) uint32, as `bitmap`; None where all may be found


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best k of each query on the GPU, best first; row -1 and score -inf where rows ran out."""

    rows: Any  # (batch, k) int32
    scores: Any  # (batch, k) float32

    @classmethod
    def allocate(cls, device: Device, batch: int, k: int) -> Found:
        """Return room for them. Raises DeviceError."""
        room = [DeviceArray(device.allocate(4 * batch * k), (batch, k), x) for x in ("<i4", "<f4")]
        return cls(rows=room[0], scores=room[1])


def padded(numbers: np.ndarray, precision: str) -> np.ndarray:
    """Return rows with zeros behind them, so that each is a multiple of what a warp loads."""
    piece = PRECISIONS[precision].piece
    width = -(-numbers.shape[1] // piece) * piece
    whole = np.zeros((len(numbers), width), PRECISIONS[precision].dtype)
    whole[:, : numbers.shape[1]] = numbers
    return whole


def bitmap(live: np.ndarray) -> np.ndarray:
    """Return (rows,) bool as (words,) uint32, the lowest bit first."""
    bits = np.zeros(-(-len(live) // 32) * 32, bool)
    bits[: len(live)] = live
    return np.packbits(bits, bitorder="little").view("<u4")


class Scan:
    """Finds the k rows with the greatest inner products.

    NOTE: the scratch memory is one launch's: calls on two streams must not overlap.
    """

    def __init__(
        self,
        device: Device,
        module: Module,
        *,
        precision: str,
        dim: int,
        batch: int,
        k: int,
        capacity: int,
    ) -> None:
        """Make room for up to `batch` queries of `dim` numbers against up to `capacity` rows.

        Precision is f16, i8, or b1 for sign bits. Where `dim` is less than the rows have, only
        their beginning is searched. Raises UsageError, DeviceError.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"precision '{precision}'. Expected one of {', '.join(PRECISIONS)}.")
        if not 0 < k <= MAX_K or dim < 1 or batch < 1 or not 0 < capacity <= MAX_ROWS:
            raise UsageError(
                f"k {k}, dim {dim}, batch {batch}, capacity {capacity}. Expected 1 or more, "
                f"k up to {MAX_K}, capacity up to {MAX_ROWS}."
            )
        self.precision, self.dim, self.batch, self.k = precision, dim, batch, k
        self.capacity = capacity
        self._form = PRECISIONS[precision]
        self._length = -(-dim // self._form.per_number)  # numbers of a query
        pieces = -(-self._length // self._form.piece)
        self._row_bytes = pieces * self._form.piece * self._form.dtype.itemsize
        fitting = [n for n in self._form.kernels if self._shared_bytes(n) <= _SHARED_BYTES]
        if not fitting:
            raise UsageError(f"dim {dim} is too wide: its queries do not fit shared memory.")
        self._scans = {n: module.function(f"scan_{precision}_{n}") for n in fitting}
        most = -(-capacity // _BLOCK_ROWS)
        self._blocks = {
            n: min(self._form.kernels[n] * device.multiprocessors, most) for n in fitting
        }
        self._queue = k + _ROOM
        lists = max(self._blocks[self._places(n)] * n for n in (1, *fitting, batch) if n <= batch)
        self._keys = device.allocate(8 * lists * self._queue)
        self._counts, self._best = device.allocate(4 * lists), device.allocate(8 * lists)
        self._merge = module.function("scan_merge")

    def __call__(
        self,
        queries: Any,
        rows: Rows,
        out: Found,
        stream: Stream,
        *,
        query_scales: Any = None,
        exclude: Any = None,
    ) -> None:
        """Queue the search of (n, dim) queries into `out`, whose batch is n.

        Queries are of the rows' type, int8 with (n,) float32 scales; `exclude` is (n,) int32, a row
        that a query may not find or -1. Raises UsageError for what does not fit. Nothing is
        allocated and nothing waited for.
        """
        arguments = self._arguments(queries, rows, out, query_scales, exclude)
        batch = arguments.batch
        places = self._places(batch)
        self._scans[places].launch(
            stream,
            arguments,
            grid=(self._blocks[places], -(-batch // places)),
            threads=_THREADS,
            shared_bytes=self._shared_bytes(places),
        )
        self._merge.launch(
            stream,
            arguments,
            grid=(batch, 1),
            threads=_MERGE_THREADS,
            shared_bytes=_MERGE_BYTES,
        )

    def _places(self, batch: int) -> int:
        """Return which kernel reads the rows least often for so many queries."""
        return next((n for n in self._scans if n >= batch), max(self._scans))

    def _shared_bytes(self, places: int) -> int:
        pitch = self._row_bytes
        if self.precision != "b1" and pitch % 128 == 0:
            pitch += 64  # query_pitch of scan.cu
        return places * (pitch + _QUERY_BYTES)

    def _arguments(
        self, queries: Any, rows: Rows, out: Found, query_scales: Any, exclude: Any
    ) -> Arguments:
        asked = operand(queries, "queries", [self._form.dtype])
        batch, form = asked.rows, self._form
        if asked.columns < self._length or not 0 < batch <= self.batch:
            raise UsageError(
                f"queries are ({batch}, {asked.columns}). "
                f"Expected 1 to {self.batch} of {self._length} numbers."
            )
        stored = self._stored(rows)
        shape: dict[str, Any] = {"rows": batch, "columns": self.k, "gaps": False}
        found = Arguments(
            queries=asked.address,
            rows=stored.address,
            count=_vector(rows.count, "rows.count", "<i4", 1),
            keys=self._keys.address,
            counts=self._counts.address,
            best=self._best.address,
            found=operand(out.rows, "out.rows", ["<i4"], **shape).address,
            scores=operand(out.scores, "out.scores", ["<f4"], **shape).address,
            row_stride=stored.stride * form.dtype.itemsize,
            query_stride=asked.stride,
            query_length=self._length,
            row_bytes=self._row_bytes,
            dim=self.dim,
            batch=batch,
            k=self.k,
            queue=self._queue,
            blocks=self._blocks[self._places(batch)],
        )
        if form.scaled:
            found.query_scales = _vector(query_scales, "query_scales", "<f4", batch)
            found.row_scales = _vector(rows.scales, "rows.scales", "<f4", stored.rows)
        if rows.live is not None:
            found.live = _vector(rows.live, "rows.live", "<u4", -(-stored.rows // 32))
        if exclude is not None:
            found.exclude = _vector(exclude, "exclude", "<i4", batch)
        return found

    def _stored(self, rows: Rows) -> Operand:
        stored = operand(rows.numbers, "rows.numbers", [self._form.dtype], alignment=16)
        needed = self._row_bytes // self._form.dtype.itemsize
        if stored.columns < needed or stored.rows > self.capacity:
            raise UsageError(
                f"rows.numbers is ({stored.rows}, {stored.columns}). Expected up to "
                f"{self.capacity} rows of {needed} numbers or more, as `padded` makes them."
            )
        return stored


def _vector(array: Any, name: str, dtype: str, length: int) -> int:
    return operand(array, name, [dtype], rows=length, columns=1, gaps=False).address
