"""The cascade's margin: how far behind the best a candidate may be and yet go the full depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cir_rt.cascade import survivors

STEPS = 64  # margins that are tried, evenly over the gaps that the queries show


@dataclass(frozen=True, kw_only=True)
class Margin:
    """A margin of early scores, and what it came to on the queries that it was found with."""

    margin: float
    share: float  # of the candidates that go the full depth
    lost: float  # by the measure that it was held to


def find_margin(
    early: np.ndarray,
    whole: np.ndarray,
    *,
    least: int,
    loss: Callable[[np.ndarray], float],
    limit: float,
) -> Margin:
    """Return the smallest margin from which on no wider one loses more than `limit`.

    `early` and `whole` are (queries, candidates) scores, `loss` says what is lost by ranking with
    scores of that shape instead of `whole`.
    """
    gaps = early.max(axis=1, keepdims=True) - early
    tried = np.unique(np.quantile(gaps, np.linspace(0, 1, STEPS)))
    found = Margin(margin=float(2 * tried[-1]), share=1.0, lost=0.0)  # everything goes on
    for margin in tried[::-1]:
        scores, share = cascaded(early, whole, float(margin), least)
        lost = loss(scores)
        if not lost <= limit:
            break
        found = Margin(margin=float(margin), share=share, lost=lost)
    return found


def cascaded(
    early: np.ndarray, whole: np.ndarray, margin: float, least: int
) -> tuple[np.ndarray, float]:
    """Return scores that rank as the cascade does, and the share that goes the full depth.

    Those that do stand by their whole scores above the rest, which stay in the early scores' order.
    """
    kept = np.stack([survivors(row, margin, least) for row in early])
    floor = np.where(kept, whole, np.inf).min(axis=1, keepdims=True)
    below = floor - 1 - (early.max(axis=1, keepdims=True) - early)
    return np.where(kept, whole, below), float(kept.mean())
