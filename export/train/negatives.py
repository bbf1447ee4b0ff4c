"""Hard negatives: wrong answers that stage I ranks high."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw(
    ranking: np.ndarray, right: Sequence[np.ndarray], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return picture rows (queries, count) int64 and which do not count, (queries, count) bool.

    `ranking` (queries, K) are each query's best rows by stage I, `right` the rows that are no
    negatives of it: its right answers, and its reference where the protocol does not rank that.
    All wrong answers among the K are as likely, none is drawn twice. Where there are fewer than
    `count`, the best row fills up and is marked.
    """
    rows = np.repeat(ranking[:, :1], count, axis=1)
    left_out = np.ones((len(ranking), count), bool)
    for k, (best, answers) in enumerate(zip(ranking, right, strict=True)):
        wrong = rng.permutation(best[~np.isin(best, answers)])[:count]
        rows[k, : len(wrong)] = wrong
        left_out[k, : len(wrong)] = False
    return rows, left_out
