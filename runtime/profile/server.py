"""Queries that arrive when they like: Poisson arrivals, goodput, the highest rate that holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cir_rt.percentile import percentile
from cir_rt.profile.questions import Question
from cir_rt.profile.scenarios import Ask, Clock, Run, stages_of

IN_TIME = 0.99  # of the queries of a rate that holds: MLPerf's 99th percentile within the bound
STEPS = 6  # halvings: the rate is found to 1/64 of what calls back to back reach
CONFIRMED = 2  # further runs, with arrivals of their own, that a rate has to hold in
LOWER = 0.95  # what a rate is multiplied by where it does not


def poisson(rate_qps: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the seconds at which queries arrive, (count,): gaps are exponential, 1/rate long."""
    return np.cumsum(rng.exponential(1 / rate_qps, count))


def serve(
    ask: Ask,
    questions: Sequence[Question],
    arrivals: np.ndarray,
    *,
    batch: int = 1,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Run:
    """Answer queries in the order of their arrival; up to `batch` that wait go in one call.

    A query's latency counts from its arrival, whenever its turn comes, as MLPerf's does; the stage
    `waiting` is what it spent in line.
    """
    latencies: list[float] = []
    timings: list[Mapping[str, float]] = []
    begun = clock()
    while (served := len(latencies)) < len(arrivals):
        while (early := arrivals[served] - (clock() - begun)) > 0:
            sleep(early)
        start = clock() - begun
        there = int(np.searchsorted(arrivals, start, side="right"))
        taken = range(served, min(max(there, served + 1), served + batch))
        timing = ask([questions[i % len(questions)] for i in taken])
        done = clock() - begun
        for i in taken:
            latencies.append(1000 * (done - arrivals[i]))
            timings.append({"waiting": 1000 * (start - arrivals[i]), **timing})
    return Run(
        latency_ms=np.array(latencies),
        stages=stages_of(timings),
        elapsed_s=clock() - begun,
        queries=len(arrivals),
    )


def in_time(run: Run, bound_ms: float) -> float:
    """Return the share of queries answered within the bound."""
    return float(np.mean(run.latency_ms <= bound_ms))


def goodput_qps(run: Run, bound_ms: float) -> float:
    """Return the answers in a second that came within the bound; late ones are worth nothing."""
    return in_time(run, bound_ms) * run.qps


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One rate, and how it went."""

    rate_qps: float
    in_time: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Search:
    """The highest rate that held, its run, and every rate that was tried on the way."""

    rate_qps: float | None  # None: not even the lowest held, whose run this is
    run: Run
    step_qps: float  # how finely rates were told apart
    tried: tuple[Tried, ...]


def highest_rate(
    try_rate: Callable[[float, int], Run], limit_qps: float, bound_ms: float
) -> Search:
    """Return the highest Poisson rate, up to a limit, at which queries are answered in time.

    `try_rate(rate, attempt)` serves queries that arrive at a rate; arrivals differ by the attempt.
    The limit is what calls back to back reach: a short run may get by above it, a long one cannot.
    """
    tried: list[Tried] = []

    def holds(rate: float, attempt: int) -> tuple[bool, Run]:
        run = try_rate(rate, attempt)
        share = in_time(run, bound_ms)
        tail = percentile(run.latency_ms, 99)
        tried.append(Tried(rate_qps=rate, in_time=share, p99_ms=tail))
        return share >= IN_TIME, run

    step = limit_qps / 2**STEPS
    held, run = holds(limit_qps, 0)
    rate, width = (limit_qps if held else 0.0), limit_qps / 2
    while not held and width >= step:
        fits, run = holds(rate + width, 0)
        rate += width if fits else 0.0
        width /= 2
    confirmed = 0
    while confirmed < CONFIRMED and rate >= step:
        fits, run = holds(rate, confirmed + 1)
        confirmed, rate = (confirmed + 1, rate) if fits else (0, LOWER * rate)
    return Search(
        rate_qps=rate if confirmed == CONFIRMED else None,
        run=run,
        step_qps=step,
        tried=tuple(tried),
    )
