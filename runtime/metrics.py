"""Recall of ranked pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def target_ranks(
    scores: np.ndarray,
    targets: Sequence[Sequence[int]],
    *,
    removed: Sequence[int | None] | None = None,
) -> np.ndarray:
    """Return the 0-based rank of each query's best-placed target, (queries,) int64.

    `scores` is (queries, gallery); `targets` holds gallery rows, any of which counts; `removed`
    holds one row a query that is left out of its ranking (the reference). Equal scores rank by
    lower row, as in the search itself. A query without targets is never found. Raises ValueError
    for scores that are not numbers: they compare as neither ahead nor behind.
    """
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN: the engine or the vectors are broken")
    ranks = np.full(len(targets), np.iinfo(np.int64).max, np.int64)
    for i, rows in enumerate(targets):
        if not len(rows):
            continue
        row_scores = scores[i]
        keep = np.ones(scores.shape[1], bool)
        if removed is not None and removed[i] is not None:
            keep[removed[i]] = False
        best = max(rows, key=lambda r: (row_scores[r], -r))
        ahead = (row_scores > row_scores[best]) & keep
        level = (row_scores[:best] == row_scores[best]) & keep[:best]
        ranks[i] = int(ahead.sum()) + int(level.sum())
    return ranks


def recall(ranks: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Return {"R@k": percent of ranks below k}."""
    size = max(len(ranks), 1)
    return {f"R@{k}": round(100 * float((ranks < k).sum()) / size, 2) for k in ks}


def rank_agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean share of common rows in two (queries, k) arrays of ranked rows."""
    if not len(a):
        return 1.0
    return float(np.mean([len(set(x) & set(y)) / len(x) for x, y in zip(a, b, strict=True)]))
