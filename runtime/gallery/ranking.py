"""The best rows of each query: what every index fills and returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cir_rt.errors import UsageError


class Ranking:
    """The best k rows so far of each query, best first, the lower row first among equals."""

    def __init__(self, k: int, excluded: np.ndarray) -> None:
        """Begin with nothing found; `open` is the usual way in."""
        self.excluded = excluded  # (n,) int64: the row that a query may not return, -1 for none
        self.rows = np.full((len(excluded), k), -1, np.int64)
        self.scores = np.full((len(excluded), k), -np.inf, np.float32)

    @classmethod
    def open(
        cls,
        shape: tuple[int, ...],
        queries: np.ndarray,
        k: int,
        mask: np.ndarray | None,
        exclude: Sequence[int | None] | None,
    ) -> Ranking:
        """Begin a search in vectors of this shape, by the rules that `Index.search` states.

        Raises UsageError for arguments that do not fit.
        """
        excluded = _excluded(len(queries), exclude)
        _check(shape, queries, k, mask)
        rows = shape[0]
        total = rows if mask is None else int(np.count_nonzero(mask))
        inside = (excluded >= 0) & (excluded < rows)
        if mask is not None and rows:
            inside &= mask[np.where(inside, excluded, 0)]
        return cls(min(k, total - int(bool(len(queries)) and inside.all())), excluded)

    @property
    def k(self) -> int:
        """How many rows a query returns at most."""
        return self.rows.shape[1]

    def merge(self, query: int, rows: np.ndarray, scores: np.ndarray) -> None:
        """Put what is better among rows, none of them ranked yet, into the best of a query."""
        all_rows = np.concatenate([self.rows[query], rows])
        all_scores = np.concatenate([self.scores[query], scores])
        order = np.lexsort((all_rows, -all_scores))[: self.k]
        self.rows[query], self.scores[query] = all_rows[order], all_scores[order]


def exact_scores(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the inner product of each row: (rows,) float32.

    A score depends on the query and the row alone, bit for bit, wherever the row stands: a matrix
    product does not give that.
    """
    return (vectors * query).sum(axis=1)


def _check(shape: tuple[int, ...], queries: np.ndarray, k: int, mask: np.ndarray | None) -> None:
    rows, dim = shape
    if queries.ndim != 2 or queries.shape[1] != dim or queries.dtype != np.float32:
        raise UsageError(
            f"queries of shape {queries.shape} and type {queries.dtype}. "
            f"Expected (n, {dim}) float32."
        )
    if k < 1:
        raise UsageError(f"k = {k}. Expected 1 or more.")
    if mask is not None and (mask.shape != (rows,) or mask.dtype != np.bool_):
        raise UsageError(
            f"mask of shape {mask.shape} and type {mask.dtype}. Expected ({rows},) bool."
        )
    if not np.isfinite(queries).all():
        raise UsageError("queries hold NaN or infinity. Expected vectors of unit length.")


def _excluded(count: int, exclude: Sequence[int | None] | None) -> np.ndarray:
    """Return the excluded row of each query: (count,) int64, -1 where there is none."""
    if exclude is None:
        return np.full(count, -1)
    if len(exclude) != count:
        raise UsageError(f"{len(exclude)} rows to exclude for {count} queries. Expected as many.")
    return np.array([-1 if row is None else row for row in exclude], np.int64)
