"""Candidates from faiss: flat, scalar-quantized, inverted-file and graph indexes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cir_rt.errors import BackendMissing
from cir_rt.gallery.index import Rows

_CHUNK_ROWS = 10_000
_TRAINING_ROWS = 50_000
_ROWS_A_LIST = 39  # faiss warns below this many training rows for each list


@dataclass(frozen=True, kw_only=True)
class FaissSettings:
    """What faiss builds, and how it is searched.

    `factory` is the string that faiss.index_factory reads, "{lists}" in it a number that grows
    with the root of the rows. The default is a graph over INT8 codes: at width 256 some 0.4 GB
    for a million rows.
    """

    factory: str = "HNSW16_SQ8"
    ef_construction: int = 200  # of a graph: candidates when a node finds its neighbours
    ef_search: int = 200  # of a graph: candidates looked at, more where more are asked for
    probes: float = 0.2  # of an inverted file: share of the lists that are looked through
    overfetch: float = 2.0  # candidates for each row wanted

    def __post_init__(self) -> None:
        """Refuse what cannot be searched."""
        if min(self.ef_construction, self.ef_search, self.overfetch) < 1 or self.probes <= 0:
            raise ValueError(f"expected ef_… and overfetch from 1, probes above 0; got {self}")


class FaissCandidates:
    """A faiss index whose ids are the gallery's rows.

    Flat, quantized and inverted-file indexes run on a GPU where `device` is one, graphs on the CPU.
    """

    LIBRARY = "faiss"
    Settings = FaissSettings

    def __init__(
        self, dim: int, settings: FaissSettings, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        """Begin empty. Raises BackendMissing without faiss, or without faiss for this device."""
        self._on_gpu = device != "cpu" and "HNSW" not in settings.factory
        self._faiss = _library(device if self._on_gpu else "cpu")
        self.settings = settings
        self._dim, self._device = dim, device
        self._threads = threads or os.cpu_count() or 1
        self._index: Any = None  # an IndexIDMap
        self._inner: Any = None  # what it maps to, on the device

    def add(
        self, vectors: Rows, rows: np.ndarray, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Encode these rows; the first ones also train what is trained."""
        faiss = self._faiss
        faiss.omp_set_num_threads(self._threads)
        if self._index is None:
            lists = max(1, min(int(4 * math.sqrt(len(rows))), len(rows) // _ROWS_A_LIST))
            factory = self.settings.factory.format(lists=lists)
            inner = faiss.index_factory(self._dim, factory, faiss.METRIC_INNER_PRODUCT)
            if hasattr(inner, "hnsw"):
                inner.hnsw.efConstruction = self.settings.ef_construction
            spread = np.linspace(0, len(rows) - 1, min(len(rows), _TRAINING_ROWS)).astype(np.int64)
            inner.train(vectors[rows[spread]])
            self._hold(faiss.IndexIDMap(inner))
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = rows[start : start + _CHUNK_ROWS]
            self._index.add_with_ids(np.ascontiguousarray(vectors[chunk]), chunk)
            if progress:
                progress(start + len(chunk), len(rows))

    def find(self, queries: np.ndarray, count: int) -> np.ndarray:
        """Return the rows that look best, (n, count) int64; -1 where there are fewer."""
        # NOTE: threads without a query of their own would spin, and wait for each other at the end.
        self._faiss.omp_set_num_threads(min(self._threads, max(1, len(queries))))
        _, rows = self._index.search(queries, count, params=self._parameters(count))
        return rows

    def _parameters(self, count: int) -> Any:
        if hasattr(self._inner, "hnsw"):
            ef = max(self.settings.ef_search, count)
            return self._faiss.SearchParametersHNSW(efSearch=ef)
        if hasattr(self._inner, "nprobe"):
            probes = math.ceil(self.settings.probes * self._inner.nlist)
            return self._faiss.SearchParametersIVF(nprobe=probes)
        return None

    def save(self, path: Path) -> None:
        """Write the index. Raises OSError where that fails."""
        index = self._index
        if self._on_gpu:
            index = self._faiss.index_gpu_to_cpu(index)
        try:
            self._faiss.write_index(index, str(path))
        except RuntimeError as error:
            raise OSError(str(error)) from error

    def load(self, path: Path) -> None:
        """Become what was saved."""
        self._hold(self._faiss.read_index(str(path)))

    def _hold(self, index: Any) -> None:
        """Keep an index, on the device where it can run there."""
        if self._on_gpu:
            resources = self._faiss.StandardGpuResources()
            ordinal = int(self._device.partition(":")[2] or 0)
            index = self._faiss.index_cpu_to_gpu(resources, ordinal, index)
        self._index = index
        self._inner = self._faiss.downcast_index(index.index)


def _library(device: str) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise BackendMissing(
            "faiss is not installed. Install it:  pip install 'cir-rt[faiss]'"
        ) from error
    if device != "cpu" and not hasattr(faiss, "StandardGpuResources"):
        raise BackendMissing(
            f"this faiss runs on the CPU alone, asked for {device}. Install the other:  "
            "pip uninstall faiss-cpu && pip install 'cir-rt[faiss-gpu]'"
        )
    return faiss
