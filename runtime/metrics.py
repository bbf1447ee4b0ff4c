"""Recall and precision of ranked pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def target_ranks(
    scores: np.ndarray,
    targets: Sequence[Sequence[int]],
    *,
    removed: Sequence[int | None] | None = None,
    among: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """Return the 0-based rank of each query's best-placed target, (queries,) int64.

    `scores` is (queries, gallery); `targets` holds gallery rows, any of which counts; `removed`
    holds one row a query that is left out of its ranking (the reference), `among` the only rows
    that a query ranks (all, unless said). Equal scores rank by lower row, as in the search itself.
    A query none of whose targets is ranked is never found. Raises ValueError for scores that are
    not numbers: they compare as neither ahead nor behind.
    """
    _check_numbers(scores)
    ranks = np.full(len(targets), np.iinfo(np.int64).max, np.int64)
    for i, rows in enumerate(targets):
        row_scores = scores[i]
        keep = _ranked(i, len(row_scores), removed, among)
        inside = [r for r in rows if keep[r]]
        if not inside:
            continue
        best = max(inside, key=lambda r: (row_scores[r], -r))
        ahead = (row_scores > row_scores[best]) & keep
        level = (row_scores[:best] == row_scores[best]) & keep[:best]
        ranks[i] = int(ahead.sum()) + int(level.sum())
    return ranks


def best_rows(
    scores: np.ndarray,
    k: int,
    *,
    removed: Sequence[int | None] | None = None,
    among: Sequence[Sequence[int]] | None = None,
) -> list[np.ndarray]:
    """Return each query's best k gallery rows, best first; fewer where fewer are ranked.

    Arguments, ties and errors are those of `target_ranks`.
    """
    _check_numbers(scores)
    found = []
    for i, row_scores in enumerate(scores):
        rows = np.flatnonzero(_ranked(i, len(row_scores), removed, among))
        found.append(rows[np.argsort(-row_scores[rows], kind="stable")[:k]])
    return found


def average_precision(
    scores: np.ndarray,
    targets: Sequence[Sequence[int]],
    k: int,
    *,
    removed: Sequence[int | None] | None = None,
) -> np.ndarray:
    """Return each query's average precision within its best k, (queries,) float64, 0 to 1.

    AP@k sums, over the ranks i <= k that hold a target, the share of targets among the first i,
    and divides by min(k, number of targets): 1 where the first places hold targets alone. It is
    the definition of CIRCO (Baldrati et al., ICCV 2023). A removed row is no target, and a query
    without targets has 0. The other arguments, ties and errors are those of `target_ranks`.
    """
    precision = np.zeros(len(targets))
    for i, best in enumerate(best_rows(scores, k, removed=removed)):
        gone = removed[i] if removed is not None else None
        wanted = [r for r in dict.fromkeys(targets[i]) if r != gone]
        hit = np.isin(best, wanted)
        shares = np.cumsum(hit) / np.arange(1, len(best) + 1)
        precision[i] = shares[hit].sum() / max(1, min(k, len(wanted)))
    return precision


def recall(ranks: np.ndarray, ks: Sequence[int], name: str = "R") -> dict[str, float]:
    """Return {"R@k": percent of ranks below k}, or with another name before the @."""
    size = max(len(ranks), 1)
    return {f"{name}@{k}": round(100 * float((ranks < k).sum()) / size, 2) for k in ks}


def rank_agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean share of common rows in two (queries, k) arrays of ranked rows."""
    if not len(a):
        return 1.0
    return float(np.mean([len(set(x) & set(y)) / len(x) for x, y in zip(a, b, strict=True)]))


def _check_numbers(scores: np.ndarray) -> None:
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN: the engine or the vectors are broken")


def _ranked(
    query: int,
    size: int,
    removed: Sequence[int | None] | None,
    among: Sequence[Sequence[int]] | None,
) -> np.ndarray:
    """Return which gallery rows a query ranks, (size,) bool."""
    keep = np.full(size, among is None)
    if among is not None:
        keep[list(among[query])] = True
    if removed is not None and removed[query] is not None:
        keep[removed[query]] = False
    return keep
