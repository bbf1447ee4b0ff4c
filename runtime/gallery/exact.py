"""Exact search: every allowed row is scored, in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cir_rt.errors import UsageError
from cir_rt.gallery.index import Rows
from cir_rt.gallery.ranking import Ranking, exact_scores

_BLOCK_NUMBERS = 1 << 22  # numbers of a block of vectors: 16 MiB
_MIN_BLOCK_ROWS = 1024
_QUERIES = 256  # queries scored together
_GATHER_SHARE = 0.2  # with fewer rows allowed than this, they are copied out and scored alone


class ExactIndex:
    """Inner products in FP32 over rows of unit length; nothing is built, nothing is kept.

    FP32 vectors are scored where they are mapped. FP16 and INT8 are decoded block by block for
    each search, which takes several times as long.
    """

    kind = "exact"

    def __init__(self, vectors: Rows) -> None:
        """Search in vectors: (rows, dim) float32, as a gallery gives them."""
        self.extend(vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def __repr__(self) -> str:
        return f"ExactIndex({len(self)} rows)"

    def extend(self, vectors: Rows) -> None:
        """Search in these vectors from now on."""
        if len(vectors.shape) != 2 or vectors.dtype != np.float32:
            raise UsageError(
                f"vectors of shape {vectors.shape} and type {vectors.dtype}. "
                "Expected (rows, dim) float32."
            )
        self._vectors = vectors
        self._block_rows = max(_MIN_BLOCK_ROWS, _BLOCK_NUMBERS // max(1, vectors.shape[1]))

    def search(
        self,
        queries: np.ndarray,
        k: int,
        mask: np.ndarray | None = None,
        *,
        exclude: Sequence[int | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, scores) of the best k, as `Index.search` states."""
        ranking = Ranking.open(self._vectors.shape, queries, k, mask, exclude)
        self.scan(queries, mask, ranking, np.arange(len(queries)))
        return ranking.rows, ranking.scores

    def scan(
        self,
        queries: np.ndarray,
        mask: np.ndarray | None,
        ranking: Ranking,
        chosen: np.ndarray,
        *,
        first: int = 0,
    ) -> None:
        """Merge the allowed rows from `first` on, none of them ranked yet, for chosen queries."""
        for start in range(0, len(chosen) if ranking.k else 0, _QUERIES):
            numbers = chosen[start : start + _QUERIES]
            part = np.ascontiguousarray(queries[numbers])
            slack = self._slack(part)
            for rows, block, banned in self._blocks(mask, first):
                rough = part @ block.T  # (n, block) float32
                if banned is not None:
                    rough[:, banned] = -np.inf
                for i, number in enumerate(numbers.tolist()):
                    found = _candidates(rough[i], rows, ranking, number, slack[i])
                    if len(found):
                        scores = exact_scores(block[found], part[i])
                        ranking.merge(number, rows[found], scores)

    def _blocks(
        self, mask: np.ndarray | None, first: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Yield (rows, their vectors, which of them are not allowed)."""
        size = self._block_rows
        if mask is not None:
            allowed = np.flatnonzero(mask[first:]) + first
            if len(allowed) < _GATHER_SHARE * (len(self) - first):
                for start in range(0, len(allowed), size):
                    rows = allowed[start : start + size]
                    yield rows, np.ascontiguousarray(self._vectors[rows]), None
                return
        for start in range(first, len(self), size):
            rows = np.arange(start, min(start + size, len(self)))
            banned = None if mask is None else ~mask[start : start + size]
            if banned is None or not banned.all():
                block = self._vectors[start : start + size]
                yield rows, np.ascontiguousarray(block), banned

    def _slack(self, queries: np.ndarray) -> np.ndarray:
        """Bound how far below the k-th rough score one may lie whose exact score reaches it.

        Matrix products round a row's score differently by where it stands in the block, each by
        at most dim * eps * |query| * |row|, as does the exact sum: (n,) float32.
        """
        eps = np.finfo(np.float32).eps
        return (2 * self._vectors.shape[1] * eps * np.linalg.norm(queries, axis=1)).astype("f4")


def _candidates(
    rough: np.ndarray, rows: np.ndarray, ranking: Ranking, query: int, slack: float
) -> np.ndarray:
    """Return the places in a block whose rows may be among the best: (candidates,) int64."""
    worst, excluded = ranking.scores[query, -1], ranking.excluded[query]
    floor = max(worst - slack, np.finfo(np.float32).min)  # above -inf, which marks the banned
    found = np.flatnonzero(rough >= floor)
    if excluded >= 0:
        found = found[rows[found] != excluded]
    if len(found) > ranking.k:
        scores = rough[found]
        found = found[scores >= np.partition(scores, len(scores) - ranking.k)[-ranking.k] - slack]
    return found
