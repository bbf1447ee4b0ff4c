"""Gates that a built engine passes before it ships: cosine, recall, latency."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cir_rt.errors import GateError

CLEAR = 0.03  # `auto` may be slower than the best fixed precision by no more than this


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One thing that a build is held to."""

    what: str
    measured: float
    limit: float
    passed: bool
    told: str  # what happened, what was expected, what to type


def check(gates: Iterable[Gate]) -> None:
    """Raise GateError for the first gate that is shut."""
    for gate in gates:
        if not gate.passed:
            raise GateError(f"{gate.what}: {gate.told}")


@dataclass(frozen=True, kw_only=True)
class Cosines:
    """Agreement of two engines' vectors, row by row."""

    minimum: float
    mean: float


def cosines(a: np.ndarray, b: np.ndarray) -> Cosines:
    """Compare (n, dim) vectors of any length."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    values = np.nan_to_num((a * b).sum(-1) / np.maximum(lengths, 1e-30), nan=-1.0)
    return Cosines(minimum=float(values.min()), mean=float(values.mean()))


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Two engines timed in turns; milliseconds, and how far the ratio strayed."""

    before_ms: float
    after_ms: float
    spread: float  # half the middle half of the paired ratios, as a share
    runs: int = 100

    @property
    def ratio(self) -> float:
        """The new engine's time over the old one's: below 1 is faster."""
        return self.after_ms / self.before_ms

    @property
    def won(self) -> bool:
        """Whether the new engine is faster by more than chance, or by more than 3 % anyway.

        Chance is the 95 % notch of a median: 1.57 times the middle half over the root of runs.
        """
        chance = 1.57 * 2 * self.spread / math.sqrt(self.runs)
        return self.ratio < 1 - min(chance, CLEAR)


def duel(
    before: Callable[[], object],
    after: Callable[[], object],
    *,
    runs: int = 100,
    warmups: int = 10,
    clock: Callable[[], float] = time.perf_counter,
) -> Duel:
    """Time both in one alternating run after a warm-up; medians decide."""
    for _ in range(warmups):
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
        runs=runs,
    )


def top_agreement(before: np.ndarray, after: np.ndarray, k: int = 10) -> float:
    """Return how much of each row's best k is the same in both, in percent on average.

    Scores are (queries, gallery); what may not be returned is -inf. Fewer than k columns are
    compared as they are.
    """
    k = min(k, before.shape[1])
    if not before.size:
        return 100.0
    best = [np.argsort(-np.nan_to_num(s, nan=-np.inf), axis=1)[:, :k] for s in (before, after)]
    shared = [len(set(a) & set(b)) for a, b in zip(*(b.tolist() for b in best), strict=True)]
    return 100 * sum(shared) / (k * len(shared))


def recall_drop(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the largest loss over the recalls, in points."""
    return max((before[name] - after[name] for name in before), default=0.0)


def recall_gate(
    before: Mapping[str, float], after: Mapping[str, float], limit: float, what: str
) -> Gate:
    """Hold every recall, or agreement, against FP32's; `limit` is in points."""
    drop = recall_drop(before, after)
    return Gate(
        what=what,
        measured=drop,
        limit=limit,
        passed=drop <= limit,  # not a number is a loss
        told=(
            f"recall fell by {drop:.2f} points, the limit is {limit:g} "
            f"({_shown(before)} -> {_shown(after)}). "
            "Give more calibration pictures, --precision auto, or a higher --max-recall-drop."
        ),
    )


def agreement_gate(percent: float, least: float, what: str) -> Gate:
    """Hold the share of FP32's top 10 that is found again against the least that is allowed."""
    return Gate(
        what=what,
        measured=percent,
        limit=least,
        passed=percent >= least,
        told=(
            f"{percent:.1f} % of FP32's top 10 are found again, the limit is {least:g}. "
            "Give more calibration pictures, --precision auto, or a lower --min-agreement."
        ),
    )


def cosine_gate(measured: Cosines, least: float, what: str) -> Gate:
    """Hold the mean cosine to FP32's vectors against the least that is allowed."""
    return Gate(
        what=what,
        measured=measured.mean,
        limit=least,
        passed=measured.mean >= least,
        told=(
            f"the cosine to FP32 is {measured.mean:.4f} on average ({measured.minimum:.4f} at "
            f"worst), the limit is {least:g}. "
            "Give more calibration pictures, --precision auto, or a lower --min-cosine."
        ),
    )


def latency_gate(measured: Duel, what: str, tolerance: float = 0.05) -> Gate:
    """Allow the engine to be slower by 5 % and the run's spread."""
    limit = 1 + tolerance + measured.spread
    return Gate(
        what=what,
        measured=measured.ratio,
        limit=limit,
        passed=measured.ratio <= limit,
        told=(
            f"{measured.after_ms:.2f} ms, slower than the {measured.before_ms:.2f} ms that "
            f"it replaces (spread {measured.spread:.0%}). Use --precision auto, or --keep-slower."
        ),
    )


def _shown(values: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.2f}" for k, v in values.items())
