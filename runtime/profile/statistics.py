"""What is said of many timings: percentiles, their spread, and how sure one may be of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cir_rt.percentile import percentile

PERCENTILES = (50, 90, 95, 99)
CONFIDENCE = 0.99
BLOCKS = 5


def variation(values: np.ndarray) -> float:
    """Return the coefficient of variation, standard deviation over mean; 0 of nothing but 0."""
    mean = float(np.mean(values))
    return float(np.std(values)) / mean if mean else 0.0


def summary(values: np.ndarray) -> dict[str, float]:
    """Return milliseconds at each percentile, their mean, and the coefficient of variation."""
    found = {f"p{q}_ms": round(percentile(values, q), 4) for q in PERCENTILES}
    return {
        **found,
        "mean_ms": round(float(np.mean(values)), 4),
        "cv": round(variation(values), 4),
    }


def tail_bound(values: np.ndarray, q: float, confidence: float = CONFIDENCE) -> float | None:
    """Return what the true q-th percentile exceeds with a chance of 1 - confidence at most.

    It is the t-th largest value, for the largest t such that t or fewer of n independent values
    beyond the percentile are that unlikely: P(Binomial(n, 1 - q/100) <= t) <= 1 - confidence. This
    is MLPerf's early-stopping estimate. None where there are too few values: p90 needs 64 of them,
    p99 needs 662.
    """
    n, share = len(values), q / 100
    k = np.arange(n)
    # log P(k) of the binomial, each from the one before
    steps = np.log((n - k) / (k + 1)) + np.log((1 - share) / share)
    chances = np.exp(n * np.log(share) + np.concatenate([[0.0], np.cumsum(steps)]))
    spare = int(np.searchsorted(np.cumsum(chances), 1 - confidence, side="right")) - 1
    return float(np.sort(values)[-spare]) if spare >= 1 else None


def block_noise(
    values: np.ndarray, statistic: Callable[[np.ndarray], float], least: int = 10
) -> float | None:
    """Return how far a figure strays within its own run, as a share of it.

    The values are cut into five blocks in the order of time, so that slow drifts count; the noise
    is half the distance between the highest and the lowest block. None where a block would hold
    fewer than `least` values.
    """
    if len(values) < BLOCKS * least:
        return None
    found = [statistic(block) for block in np.array_split(values, BLOCKS)]
    whole = statistic(values)
    return (max(found) - min(found)) / 2 / whole if whole else None
