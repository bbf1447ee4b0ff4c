"""Approximate search: a library names candidates, the gallery's own vectors score them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from cir_rt.gallery.exact import ExactIndex
from cir_rt.gallery.index import Candidates, Rows
from cir_rt.gallery.ranking import Ranking, exact_scores

_SCANNED_FOR_A_CANDIDATE = 12  # rows that are scored exactly in the time one candidate takes
_TRIES, _MORE = 3, 4  # each asks for so many times the candidates of the one before


class ApproximateIndex:
    """Candidates for the rows that the library holds; newer rows are scored exactly.

    Rows that the mask forbids are candidates too, so more are asked for the fewer are allowed.
    Where scoring all that are allowed is no more work, or where too few candidates come back, they
    are: a query returns as many rows as an exact search would.
    """

    def __init__(self, vectors: Rows, candidates: Candidates, *, kind: str, covered: int) -> None:
        """Search in vectors; candidates holds of the rows below `covered` those that count."""
        self.kind = kind
        self.candidates = candidates
        self.covered = covered
        self._exact = ExactIndex(vectors)
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def __repr__(self) -> str:
        return f"ApproximateIndex({self.kind}, {self.covered} of {len(self)} rows covered)"

    def extend(self, vectors: Rows) -> None:
        """Search in these vectors from now on: the same rows, and perhaps more behind them."""
        self._exact.extend(vectors)
        self._vectors = vectors

    def grow(self, live: np.ndarray, progress: Callable[[int, int], None] | None = None) -> None:
        """Cover every row; live is (rows,) bool, others are left out for ever."""
        rows = np.flatnonzero(live[self.covered :]) + self.covered
        if len(rows):
            self.candidates.add(self._vectors, rows, progress)
        self.covered = len(self)

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
        short = self._rank_candidates(queries, mask, ranking)
        self._exact.scan(queries, mask, ranking, np.flatnonzero(short))
        self._exact.scan(queries, mask, ranking, np.flatnonzero(~short), first=self.covered)
        return ranking.rows, ranking.scores

    def _rank_candidates(
        self, queries: np.ndarray, mask: np.ndarray | None, ranking: Ranking
    ) -> np.ndarray:
        """Rank each query's candidates; return which queries got too few: (n,) bool."""
        covered, short = self.covered, np.ones(len(queries), bool)
        allowed = covered if mask is None else int(np.count_nonzero(mask[:covered]))
        wanted = min(allowed, math.ceil(ranking.k * self.candidates.settings.overfetch) + 1)
        count = math.ceil(wanted * covered / max(1, allowed))
        for _ in range(_TRIES):
            if not short.any() or not ranking.k or allowed <= _SCANNED_FOR_A_CANDIDATE * count:
                break
            asked = np.flatnonzero(short)
            found = self.candidates.find(np.ascontiguousarray(queries[asked]), min(count, covered))
            for query, rows in zip(asked.tolist(), found, strict=True):
                rows = rows[rows >= 0]
                rows = rows if mask is None else rows[mask[rows]]
                if len(rows) >= wanted:
                    rows = rows[rows != ranking.excluded[query]]  # for which one more was wanted
                    ranking.merge(query, rows, exact_scores(self._vectors[rows], queries[query]))
                    short[query] = False
            count *= _MORE
        return short
