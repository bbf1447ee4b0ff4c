"""Gates that a built engine passes before it ships: cosine, recall, latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cir_rt.errors import GateError


@dataclass(frozen=True, kw_only=True)
class Cosines:
    """Agreement of two engines' unit vectors, row by row."""

    minimum: float
    mean: float


def cosines(a: np.ndarray, b: np.ndarray) -> Cosines:
    """Compare (n, dim) unit vectors."""
    values = np.nan_to_num((a * b).sum(-1), nan=-1.0)
    return Cosines(minimum=float(values.min()), mean=float(values.mean()))


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Two engines timed in turns; milliseconds, and how far the ratio strayed."""

    before_ms: float
    after_ms: float
    spread: float  # half the middle half of the paired ratios, as a share

    @property
    def ratio(self) -> float:
        """The new engine's time over the old one's: below 1 is faster."""
        return self.after_ms / self.before_ms


def duel(
    before: Callable[[], object],
    after: Callable[[], object],
    *,
    runs: int = 100,
    clock: Callable[[], float] = time.perf_counter,
) -> Duel:
    """Time both in one alternating run after a warm-up; medians decide."""
    for _ in range(10):
        before()
        after()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for side, run in enumerate((before, after)):
            start = clock()
            run()
            times[side].append(1000 * (clock() - start))
    ratios = sorted(b / a for a, b in zip(*times, strict=True) if a > 0)
    middle = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    return Duel(
        before_ms=statistics.median(times[0]),
        after_ms=statistics.median(times[1]),
        spread=(middle[1] - middle[0]) / 2,
    )


def recall_drop(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the largest loss over the recalls, in points."""
    return max((before[name] - after[name] for name in before), default=0.0)


def check_recall(
    before: Mapping[str, float], after: Mapping[str, float], limit: float, what: str
) -> None:
    """Raise GateError where a recall fell by more than `limit` points."""
    drop = recall_drop(before, after)
    if not drop <= limit:  # not a number is a loss
        raise GateError(
            f"{what}: recall fell by {drop:.2f} points, the limit is {limit:g} "
            f"({_shown(before)} -> {_shown(after)}). "
            "Give more calibration pictures, --precision auto, or a higher --max-recall-drop."
        )


def check_latency(measured: Duel, what: str, tolerance: float = 0.05) -> None:
    """Raise GateError where the engine is slower by more than 5 % and the run's spread."""
    if measured.ratio > 1 + tolerance + measured.spread:
        raise GateError(
            f"{what}: {measured.after_ms:.2f} ms, slower than the {measured.before_ms:.2f} ms that "
            f"it replaces (spread {measured.spread:.0%}). Use --precision auto, or --keep-slower."
        )


def _shown(values: Mapping[str, float] | Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{k} {v:.2f}" for k, v in dict(values).items())
