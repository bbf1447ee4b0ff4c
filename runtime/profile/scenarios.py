"""Asking again and again, and what the caller's clock says of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cir_rt.profile.questions import Question

Clock = Callable[[], float]  # seconds
Ask = Callable[[Sequence[Question]], Mapping[str, float]]  # -> milliseconds by stage, and "total"


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What a scenario saw. An observation is what was waited for: a call, or a query in `server`.

    `stages` are the callee's own words; what the caller waited beyond them is unaccounted for.
    """

    latency_ms: np.ndarray  # (observations,), by the caller's clock
    stages: Mapping[str, np.ndarray]  # stage -> (observations,) milliseconds
    elapsed_s: float
    queries: int

    @property
    def unaccounted_ms(self) -> np.ndarray:
        """Return what no stage accounts for, (observations,)."""
        return self.latency_ms - np.sum(list(self.stages.values()), axis=0)

    @property
    def qps(self) -> float:
        """Queries answered in a second."""
        return self.queries / self.elapsed_s


def stages_of(timings: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Return milliseconds by stage, a value a timing: 0 where a stage did not take part."""
    names = dict.fromkeys(name for timing in timings for name in timing if name != "total")
    return {name: np.array([t.get(name, 0.0) for t in timings]) for name in names}


def back_to_back(
    ask: Ask,
    questions: Sequence[Question],
    *,
    batch: int,
    runs: int,
    clock: Clock = time.perf_counter,
) -> Run:
    """Ask the next `batch` questions as soon as the ones before are answered, `runs` times.

    With one question a call it is MLPerf's single-stream, with several its multi-stream; in offline
    all questions are there at the start, and the batches are how they are worked off.
    """
    latencies: list[float] = []
    timings: list[Mapping[str, float]] = []
    begun = clock()
    for i in range(runs):
        asked = [questions[(i * batch + j) % len(questions)] for j in range(batch)]
        start = clock()
        timings.append(ask(asked))
        latencies.append(1000 * (clock() - start))
    return Run(
        latency_ms=np.array(latencies),
        stages=stages_of(timings),
        elapsed_s=clock() - begun,
        queries=runs * batch,
    )
