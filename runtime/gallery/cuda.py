"""Exact search on a GPU: its memory names the candidates, the gallery's own vectors score them.

NOTE: this has run on the host harness of the tests alone, never on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from cir_rt.errors import BackendMissing, DeviceError, UsageError
from cir_rt.gallery.gpu_memory import GpuMemory
from cir_rt.gallery.index import Rows
from cir_rt.gallery.ranking import Ranking, exact_scores
from cir_rt.kernels import scan
from cir_rt.kernels.build import build
from cir_rt.kernels.cuda import Device, DeviceArray, Module
from cir_rt.kernels.scan import MAX_K, Found, Scan, bitmap, padded

OVERFETCH = 64  # candidates beyond k, at least

_QUERIES = 16  # scanned together
_LEAST_CANDIDATES = 128  # then powers of two up to MAX_K: few scans, each with its scratch memory
_LEAST_ROWS = 1024
_BLOCK_NUMBERS = 1 << 21  # of the rows that are written to the GPU at once
_ON_CPU = "search on the CPU:  index='hnsw' or index='faiss'"


class CudaIndex:
    """Rows of unit length as FP16 on a GPU, scanned for each query; scores are the exact index's.

    Rounding a query q and a row x to FP16, 2^-11 each, moves their inner product by at most some
    2^-10 |q| |x|. So a row of the best k is missed only where more than OVERFETCH rows that are not
    among them score within 2^-9 |q| |x| of the k-th: a crowd of near copies, of which others come.

    Owned by one thread at a time.
    """

    kind = "exact"

    def __init__(self, vectors: Rows, device: str = "cuda") -> None:
        """Search in vectors: (rows, dim) float32, as a gallery gives them.

        The first time on a machine the kernels are compiled. Raises BackendMissing without that
        GPU, its packages or nvcc, and DeviceError where its memory does not suffice.
        """
        self._vectors: Rows = vectors[:0]
        self._width = padded(vectors[:0], "f16").shape[1]
        self._memory = memory = GpuMemory(device)
        self._gpu = memory.device
        self._scans: dict[int, Scan] = {}  # by the number of candidates
        self._mask: np.ndarray | None = None  # what `_live` was made of
        with self._gpu.current():
            self._module: Module | None = _kernels(self._gpu)
            self._count = memory.array((1,), "<i4")
            self._queries = memory.array((_QUERIES, vectors.shape[1]), "<f2")
            self._excluded = memory.array((_QUERIES,), "<i4")
            self._found = memory.array((_QUERIES, MAX_K), "<i4")
            self._scores = memory.array((_QUERIES, MAX_K), "<f4")
            self._numbers = memory.array((0, self._width), "<f2")
            self._live = memory.array((0,), "<u4")
        try:
            self.extend(vectors)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._vectors)

    def __repr__(self) -> str:
        return f"CudaIndex({len(self)} rows on cuda:{self._gpu.index}, {self._gpu.name})"

    def extend(self, vectors: Rows) -> None:
        """Search in these vectors from now on: the same rows, and perhaps more behind them.

        Only those are copied. Raises DeviceError where memory does not suffice; what was there
        before is then searched on.
        """
        capacity = self._numbers.shape[0]
        with self._gpu.current():
            if len(vectors) > capacity:
                self._grow(max(len(vectors), 2 * capacity, _LEAST_ROWS))
            block = max(1, _BLOCK_NUMBERS // self._width)
            for start in range(len(self), len(vectors), block):
                numbers = padded(vectors[start : start + block], "f16")
                self._memory.put(self._numbers, numbers, start)
            self._memory.put(self._count, np.array([len(vectors)], "<i4"))
        self._vectors = vectors

    def search(
        self,
        queries: np.ndarray,
        k: int,
        mask: np.ndarray | None = None,
        *,
        exclude: Sequence[int | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, scores) of the best k, as `Index.search` states.

        Raises UsageError also for more rows than the scan names, which are MAX_K - OVERFETCH, or
        MAX_K where no more are allowed.
        """
        ranking = Ranking.open(self._vectors.shape, queries, k, mask, exclude)
        wanted = ranking.k + OVERFETCH
        if wanted > MAX_K:
            allowed = len(self) if mask is None else np.count_nonzero(mask)
            if allowed > MAX_K:
                raise UsageError(
                    f"k = {k} of {allowed:,} rows. Expected k up to {MAX_K - OVERFETCH} on a GPU; "
                    f"for more, {_ON_CPU}"
                )
        with self._gpu.current():
            for start in range(0, len(queries) if ranking.k else 0, _QUERIES):
                part = slice(start, start + _QUERIES)
                candidates = self._candidates(queries[part], wanted, mask, ranking.excluded[part])
                for query, found in enumerate(candidates, start):
                    rows = found[found >= 0]
                    vectors = np.ascontiguousarray(self._vectors[rows])
                    ranking.merge(query, rows, exact_scores(vectors, queries[query]))
        return ranking.rows, ranking.scores

    def close(self) -> None:
        """Free the GPU's memory; a second call does nothing."""
        if self._module is not None:
            with self._gpu.current():
                self._scans.clear()
                self._module.close()
            self._module = None
            self._memory.close()

    def _candidates(
        self, queries: np.ndarray, wanted: int, mask: np.ndarray | None, excluded: np.ndarray
    ) -> np.ndarray:
        """Return the rows that score best in FP16: (n, wanted or more) int32, -1 for none."""
        kernel, put = self._scan(min(wanted, MAX_K)), self._memory.put
        inside = np.where(excluded < len(self), excluded, -1).astype("<i4")
        shape = len(queries), kernel.k
        out = Found(
            rows=DeviceArray(self._found.buffer, shape, "<i4"),
            scores=DeviceArray(self._scores.buffer, shape, "<f4"),
        )
        kernel(
            put(self._queries, _halved(queries)),
            scan.Rows(numbers=self._numbers, count=self._count, live=self._bits(mask)),
            out,
            self._memory.stream,
            exclude=put(self._excluded, inside),
        )
        return self._memory.get(out.rows)

    def _bits(self, mask: np.ndarray | None) -> DeviceArray | None:
        """Return a mask as the scan reads it; it is copied unless it is the one that lies there."""
        if mask is None:
            return None
        words = -(-self._numbers.shape[0] // 32)
        if self._live.shape != (words,):  # there is room for more rows now
            with self._enough_memory():
                live = self._memory.array((words,), "<u4")
            self._memory.free(self._live)
            self._live, self._mask = live, None
        if mask is not self._mask or mask.flags.writeable:  # which may have changed since
            self._memory.put(self._live, bitmap(mask))
            self._mask = mask
        return self._live

    def _scan(self, wanted: int) -> Scan:
        """Return the scan for so many candidates or more."""
        k = max(_LEAST_CANDIDATES, 1 << (wanted - 1).bit_length())
        if k not in self._scans:
            assert self._module is not None
            with self._enough_memory():
                self._scans[k] = Scan(
                    self._gpu,
                    self._module,
                    precision="f16",
                    dim=self._vectors.shape[1],
                    batch=_QUERIES,
                    k=k,
                    capacity=self._numbers.shape[0],
                )
        return self._scans[k]

    def _grow(self, capacity: int) -> None:
        """Make room for so many rows, and move there what is held."""
        with self._enough_memory():
            numbers = self._memory.array((capacity, self._width), "<f2")
        self._memory.move(self._numbers, numbers)
        self._numbers = numbers
        self._scans.clear()  # they were made for fewer rows

    @contextmanager
    def _enough_memory(self) -> Iterator[None]:
        """Say what to do where the block finds no room on the GPU."""
        try:
            yield
        except DeviceError as error:
            raise DeviceError(f"{error} Free memory on the GPU, or {_ON_CPU}") from error


def _kernels(gpu: Device) -> Module:
    """Load the kernels, compiled for this GPU. Raises BackendMissing without nvcc."""
    try:
        fatbin = build([gpu.capability])
    except BackendMissing as error:
        raise BackendMissing(f"{error} Or {_ON_CPU}") from error
    return gpu.module(fatbin.path.read_bytes())


def _halved(queries: np.ndarray) -> np.ndarray:
    """Return queries as FP16, (n, dim), each times a power of two: its greatest is then below 1.

    That changes no order, and a query of any length fits.
    """
    greatest = np.abs(queries).max(axis=1, keepdims=True)
    return np.ldexp(queries, -np.frexp(greatest)[1]).astype("<f2")
