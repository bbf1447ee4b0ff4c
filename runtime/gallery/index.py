"""What every index is, and which there are: rows and their scores for a query."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from cir_rt.errors import UsageError

# kind: (module, class, what differs from its settings' defaults)
_CANDIDATES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "hnsw": ("cir_rt.gallery.hnsw", "HnswCandidates", {}),
    "faiss": ("cir_rt.gallery.faiss", "FaissCandidates", {}),
    "faiss-flat": ("cir_rt.gallery.faiss", "FaissCandidates", {"factory": "Flat"}),
    "faiss-fp16": ("cir_rt.gallery.faiss", "FaissCandidates", {"factory": "SQfp16"}),
    "faiss-ivf": ("cir_rt.gallery.faiss", "FaissCandidates", {"factory": "IVF{lists},Flat"}),
    "faiss-hnsw": ("cir_rt.gallery.faiss", "FaissCandidates", {"factory": "HNSW16,Flat"}),
}
KINDS = ("exact", *_CANDIDATES)
AUTO = "auto"

_SCANNED_ROWS = 50_000  # up to here an exact scan takes some 4 ms on two cores
_DECODED_ROWS = 5_000  # the same where each row is decoded first
_FULL_PRECISION_ROWS = 500_000  # above, the vectors that hnswlib copies take over 0.6 GB


class Rows(Protocol):
    """Vectors by row, float32: an array, or what a gallery gives."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dim)."""

    @property
    def dtype(self) -> np.dtype:
        """float32."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Return a slice or an array of rows: (n, dim) float32."""


class IndexedGallery(Protocol):
    """What an index needs of a gallery."""

    @property
    def folder(self) -> Path:
        """Where indexes are saved."""

    @property
    def segment(self) -> int:
        """Another number means that rows were renumbered."""

    @property
    def vectors(self) -> Rows:
        """All rows, dead ones included."""

    @property
    def live(self) -> np.ndarray:
        """(rows,) bool: False where deleted."""


class Index(Protocol):
    """Ranks the rows of a gallery by inner product."""

    @property
    def kind(self) -> str:
        """One of KINDS."""

    def __len__(self) -> int: ...

    def extend(self, vectors: Rows) -> None:
        """Search in these vectors from now on: the same rows, and perhaps more behind them."""

    def search(
        self,
        queries: np.ndarray,
        k: int,
        mask: np.ndarray | None = None,
        *,
        exclude: Sequence[int | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, scores) of the best k: (n, k') int64, (n, k') float32.

        queries is (n, dim) float32; mask is (rows,) bool, the rows that may be returned; exclude
        names one more row for each query that it may not return, None for none. Sorted by score,
        best first, the lower row first among equals. k' = min(k, most rows that any query may
        return); a query that may return fewer ends in row -1, score -inf. An approximate index may
        miss a row that belongs among the best, but returns as many as the exact one. A score
        depends on the query and the row alone and is that of the exact index, so equal vectors
        score equal and a batch gives what single queries give, bit for bit. Raises UsageError for
        wrong shapes and types, k < 1, queries not finite.
        """


class Candidates(Protocol):
    """A library's approximate search over rows that were added: who may be among the best."""

    LIBRARY: str  # as it is imported
    Settings: Any  # the settings' class
    settings: Any  # a frozen dataclass; `overfetch` says how many candidates for each row wanted

    def __init__(self, dim: int, settings: Any, *, device: str, threads: int | None) -> None: ...

    def add(
        self, vectors: Rows, rows: np.ndarray, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Take in these rows of the vectors."""

    def find(self, queries: np.ndarray, count: int) -> np.ndarray:
        """Return the rows that look best, (n, at most count) int64; -1 where there are fewer."""

    def save(self, path: Path) -> None:
        """Write everything to a file. Raises OSError where that fails, as on a full disk."""

    def load(self, path: Path) -> None:
        """Become what was saved. Raises whatever the library does for a file it cannot read."""


class Choice(NamedTuple):
    """A kind of index, and why it."""

    kind: str
    reason: str


def candidates_class(kind: str) -> tuple[Any, dict[str, Any]]:
    """Return the class behind an approximate kind, and what differs from its settings' defaults.

    Raises UsageError for a kind that is not known.
    """
    check_kind(kind)
    module, name, changes = _CANDIDATES[kind]
    return getattr(importlib.import_module(module), name), changes


def check_kind(kind: str) -> None:
    """Raise UsageError for a kind that is not known, naming the nearest."""
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"no index '{kind}'.{hint} Expected auto or one of: {', '.join(KINDS)}.")


def installed() -> set[str]:
    """Return which of hnswlib and faiss this Python has."""
    return {name for name in ("hnswlib", "faiss") if importlib.util.find_spec(name)}


def choose(
    rows: int,
    device: str = "cpu",
    libraries: Collection[str] | None = None,
    precision: str = "fp32",
) -> Choice:
    """Choose the index for so many rows, stored at this precision, and say why.

    `libraries` is what `installed` returns, asked for where it is None.
    """
    if device.startswith("cuda"):
        return Choice("exact", f"every one of {rows:,} rows is scored in the memory of {device}")
    plain = precision == "fp32"
    if rows <= (_SCANNED_ROWS if plain else _DECODED_ROWS):
        return Choice("exact", f"{rows:,} rows are few enough to score every one")
    have = installed() if libraries is None else libraries
    if not plain and rows <= _SCANNED_ROWS and "faiss" in have:
        return Choice("faiss-fp16", f"{rows:,} rows of {precision} would be decoded every time")
    if "hnswlib" in have and rows <= _FULL_PRECISION_ROWS:
        return Choice("hnsw", f"{rows:,} rows are too many to score every one")
    if "faiss" in have:
        return Choice("faiss", f"{rows:,} rows are searched in a quarter of the memory")
    if "hnswlib" in have:
        return Choice("hnsw", f"{rows:,} rows; in less memory with:  pip install 'cir-rt[faiss]'")
    decoded = "" if plain else f", each decoded from {precision}"
    return Choice(
        "exact",
        f"every one of {rows:,} rows is scored{decoded}, which is slow. Install an index:  "
        "pip install 'cir-rt[faiss]'",
    )
