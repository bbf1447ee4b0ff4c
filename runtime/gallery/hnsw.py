"""Candidates from hnswlib: a graph over FP32 vectors, which it keeps in memory of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cir_rt.errors import BackendMissing
from cir_rt.gallery.index import Rows

_CHUNK_ROWS = 10_000
_SEED = 100


@dataclass(frozen=True, kw_only=True)
class HnswSettings:
    """How the graph is built and searched (Malkov and Yashunin, arXiv:1603.09320)."""

    m: int = 16  # neighbours of a node, twice as many in the lowest layer
    ef_construction: int = 200  # candidates looked at when a node finds its neighbours
    ef_search: int = 200  # candidates looked at by a search, more where more are asked for
    overfetch: float = 1.2  # candidates for each row wanted

    def __post_init__(self) -> None:
        """Refuse what no graph can be."""
        if self.m < 2 or min(self.ef_construction, self.ef_search) < 1 or self.overfetch < 1:
            raise ValueError(f"expected m from 2, ef_… from 1, overfetch from 1; got {self}")


class HnswCandidates:
    """An hnswlib index; its labels are the gallery's rows."""

    LIBRARY = "hnswlib"
    Settings = HnswSettings

    def __init__(
        self, dim: int, settings: HnswSettings, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        """Begin empty; it runs on the CPU, whatever the device. Raises BackendMissing."""
        self.settings = settings
        self._threads = threads or os.cpu_count() or 1
        self._index = _library().Index(space="ip", dim=dim)
        self._index.set_num_threads(self._threads)

    def add(
        self, vectors: Rows, rows: np.ndarray, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Link these rows into the graph."""
        held = self._index.element_count
        if held:
            self._index.resize_index(held + len(rows))
        else:
            self._index.init_index(
                max_elements=len(rows),
                M=self.settings.m,
                ef_construction=self.settings.ef_construction,
                random_seed=_SEED,
            )
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = rows[start : start + _CHUNK_ROWS]
            self._index.add_items(vectors[chunk], chunk, num_threads=self._threads)
            if progress:
                progress(start + len(chunk), len(rows))

    def find(self, queries: np.ndarray, count: int) -> np.ndarray:
        """Return the rows that look best: (n, at most count) int64."""
        count = min(count, self._index.element_count)
        self._index.set_ef(max(self.settings.ef_search, count))
        try:
            rows, _ = self._index.knn_query(queries, count)
        except RuntimeError:  # fewer than count can be reached from the graph's entry
            return np.empty((len(queries), 0), np.int64)
        return rows.astype(np.int64)

    def save(self, path: Path) -> None:
        """Write the graph. Raises OSError where the file came out short, as on a full disk."""
        self._index.save_index(str(path))
        written, expected = path.stat().st_size, self._index.index_file_size()
        if written != expected:  # NOTE: hnswlib does not look whether its writes succeeded
            raise OSError(f"{written} of {expected} bytes were written")

    def load(self, path: Path) -> None:
        """Become what was saved."""
        self._index.load_index(str(path))


def _library() -> Any:
    try:
        import hnswlib
    except ImportError as error:
        raise BackendMissing(
            "hnswlib is not installed. Install it (it needs a C++ compiler):  "
            "pip install 'cir-rt[hnsw]'"
        ) from error
    return hnswlib
