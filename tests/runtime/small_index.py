"""Small sets of vectors for tests of the indexes, and what sorting every score finds in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir_rt.gallery.approximate import ApproximateIndex
from cir_rt.gallery.exact import ExactIndex
from cir_rt.gallery.index import Index, candidates_class

SIZES = (0, 1, 7, 19, 111, 989)
DIM = 24


@dataclass
class Shown:
    """What an index sees of a gallery."""

    folder: Path
    vectors: Any
    live: np.ndarray
    segment: int = 0


def shown(folder: Path, vectors: np.ndarray, *dead: int) -> Shown:
    live = np.ones(len(vectors), bool)
    live[list(dead)] = False
    return Shown(folder=folder, vectors=vectors, live=live)


def unit_vectors(rows: int, seed: int, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def grid_vectors(rows: int, seed: int, dim: int = DIM) -> np.ndarray:
    """Vectors whose inner products are exact in FP32 whatever the order, so that many tie."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, dim)).astype(np.float32) / 8


def clustered_vectors(rows: int, seed: int, dim: int = 64) -> np.ndarray:
    """Vectors around 60 centres, the same for every seed."""
    rng = np.random.default_rng(seed)
    centres = unit_vectors(60, 1000, dim)
    vectors = centres[rng.integers(0, 60, rows)] + 0.1 * rng.standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute_force(
    vectors: np.ndarray,
    query: np.ndarray,
    k: int,
    mask: np.ndarray | None = None,
    excluded: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    scores = (vectors.astype(np.float64) * query).sum(axis=1)  # equal for equal vectors
    allowed = np.ones(len(vectors), bool) if mask is None else mask.copy()
    if excluded is not None:
        allowed[excluded] = False
    rows = np.flatnonzero(allowed)
    rows = rows[np.lexsort((rows, -scores[rows]))][:k]
    return rows, scores[rows]


def recall(found: np.ndarray, known: np.ndarray) -> float:
    return float(np.mean([np.isin(b, a).mean() for a, b in zip(found, known, strict=True)]))


def is_right(index: Index, gallery: Shown, queries: np.ndarray) -> bool:
    """Hold an index against the exact one, row for row and bit for bit."""
    found = index.search(queries, 20, gallery.live)
    known = ExactIndex(gallery.vectors).search(queries, 20, gallery.live)
    for a, b in zip(found, known, strict=True):
        np.testing.assert_array_equal(a, b)
    return True


def needs_library(kind: str) -> None:
    """Skip a test where the library of a kind is not installed."""
    if kind != "exact":
        pytest.importorskip("hnswlib" if kind == "hnsw" else "faiss")


def thorough(kind: str) -> Any:
    """Return settings at which an index of some hundred rows misses nothing."""
    cls, changes = candidates_class(kind)
    settings = cls.Settings(**changes)
    extra = {"probes": 1.0} if hasattr(settings, "probes") else {}
    return cls.Settings(**{**changes, **extra, "overfetch": 1000.0})


def built(kind: str, vectors: np.ndarray, live: np.ndarray | None = None) -> Index:
    """Build an index that misses nothing; half of its rows come later."""
    if kind == "exact":
        return ExactIndex(vectors)
    cls, _ = candidates_class(kind)
    candidates = cls(vectors.shape[1], thorough(kind), device="cpu", threads=1)
    live = np.ones(len(vectors), bool) if live is None else live
    half = len(vectors) // 2
    index = ApproximateIndex(vectors[:half], candidates, kind=kind, covered=0)
    for rows in (half, len(vectors)):
        index.extend(vectors[:rows])
        index.grow(live[:rows])
    return index
