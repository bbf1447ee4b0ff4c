"""Exact search: every allowed row is scored, in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cir_rt.errors import UsageError

_BLOCK_NUMBERS = 1 << 22  # numbers of a block of vectors: 16 MiB
_MIN_BLOCK_ROWS = 1024
_QUERIES = 256  # queries scored together
_GATHER_SHARE = 0.2  # with fewer rows allowed than this, they are copied out and scored alone


class ExactIndex:
    """Inner products in FP32 over rows of unit length; nothing is built, nothing is copied."""

    def __init__(self, vectors: np.ndarray) -> None:
        """Search in vectors: (rows, dim) float32, as a gallery maps them."""
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise UsageError(
                f"vectors of shape {vectors.shape} and type {vectors.dtype}. "
                "Expected (rows, dim) float32."
            )
        self._vectors = vectors
        self._block_rows = max(_MIN_BLOCK_ROWS, _BLOCK_NUMBERS // max(1, vectors.shape[1]))

    def __len__(self) -> int:
        return len(self._vectors)

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
        return); a query that may return fewer ends in row -1, score -inf. A score depends on the
        query and the row alone, so equal vectors score equal and a batch gives what single queries
        give, bit for bit. Raises UsageError for wrong shapes and types, k < 1, queries not finite.
        """
        excluded = _excluded(len(queries), exclude)
        self._check(queries, k, mask)
        total = len(self) if mask is None else int(np.count_nonzero(mask))
        inside = (excluded >= 0) & (excluded < len(self))
        if mask is not None and len(mask):
            inside &= mask[np.where(inside, excluded, 0)]
        k = min(k, total - int(bool(len(queries)) and inside.all()))
        rows = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for start in range(0, len(queries) if k else 0, _QUERIES):
            part = slice(start, start + _QUERIES)
            self._search_part(queries[part], mask, excluded[part], rows[part], scores[part])
        return rows, scores

    def _check(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> None:
        rows, dim = self._vectors.shape
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

    def _search_part(
        self,
        queries: np.ndarray,
        mask: np.ndarray | None,
        excluded: np.ndarray,
        best_rows: np.ndarray,
        best_scores: np.ndarray,
    ) -> None:
        queries = np.ascontiguousarray(queries)
        slack = self._slack(queries)
        for start in range(0, len(self), self._block_rows):
            block = self._vectors[start : start + self._block_rows]
            rows = np.arange(start, start + len(block))
            banned = None
            if mask is not None:
                allowed = mask[start : start + len(block)]
                count = np.count_nonzero(allowed)
                if count == 0:
                    continue
                if count < _GATHER_SHARE * len(block):
                    block, rows = block[allowed], rows[allowed]
                elif count < len(block):
                    banned = ~allowed
            block = np.ascontiguousarray(block)
            scores = queries @ block.T  # (n, block) float32
            if banned is not None:
                scores[:, banned] = -np.inf
            for i, query in enumerate(queries):
                found = _candidates(scores[i], rows, best_scores[i], excluded[i], slack[i])
                if len(found):
                    exact = (block[found] * query).sum(axis=1)
                    _merge(rows[found], exact, best_rows[i], best_scores[i])

    def _slack(self, queries: np.ndarray) -> np.ndarray:
        """Bound how far below the k-th rough score one may lie whose exact score reaches it.

        Matrix products round a row's score differently by where it stands in the block, each by
        at most dim * eps * |query| * |row|, as does the exact sum: (n,) float32.
        """
        eps = np.finfo(np.float32).eps
        return (2 * self._vectors.shape[1] * eps * np.linalg.norm(queries, axis=1)).astype("f4")


def _excluded(count: int, exclude: Sequence[int | None] | None) -> np.ndarray:
    """Return the excluded row of each query: (count,) int64, -1 where there is none."""
    if exclude is None:
        return np.full(count, -1)
    if len(exclude) != count:
        raise UsageError(f"{len(exclude)} rows to exclude for {count} queries. Expected as many.")
    return np.array([-1 if row is None else row for row in exclude], np.int64)


def _candidates(
    scores: np.ndarray, rows: np.ndarray, best: np.ndarray, excluded: int, slack: float
) -> np.ndarray:
    """Return the places in a block whose rows may be among the best: (candidates,) int64."""
    k = len(best)
    floor = max(best[-1] - slack, np.finfo(np.float32).min)  # above -inf, which marks the banned
    found = np.flatnonzero(scores >= floor)
    if excluded >= 0:
        found = found[rows[found] != excluded]
    if len(found) > k:
        rough = scores[found]
        found = found[rough >= np.partition(rough, len(rough) - k)[-k] - slack]
    return found


def _merge(
    rows: np.ndarray, scores: np.ndarray, best_rows: np.ndarray, best_scores: np.ndarray
) -> None:
    """Put what is better among rows into the best, in place."""
    all_rows = np.concatenate([best_rows, rows])
    all_scores = np.concatenate([best_scores, scores])
    order = np.lexsort((all_rows, -all_scores))[: len(best_rows)]
    best_rows[:], best_scores[:] = all_rows[order], all_scores[order]
