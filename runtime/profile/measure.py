"""One configuration, measured: a run of its scenario with memory and energy beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cir_rt.percentile import percentile
from cir_rt.profile.energy import FAILURES, Meter
from cir_rt.profile.memory import peak_rss_mb, reset_peak
from cir_rt.profile.options import SCENARIOS, ProfileOptions
from cir_rt.profile.questions import Question
from cir_rt.profile.scenarios import Ask, Clock, Run, back_to_back
from cir_rt.profile.server import (
    IN_TIME,
    Search,
    goodput_qps,
    highest_rate,
    in_time,
    poisson,
    serve,
)
from cir_rt.profile.statistics import block_noise, summary, tail_bound

BOUNDS = 30  # a rate is tried for so many times the bound at least: a line needs time to grow


@dataclass(frozen=True, kw_only=True)
class Rig:
    """What a measurement is made with; tests replace clock, sleep and meter."""

    options: ProfileOptions
    questions: Sequence[Question]
    meter: Meter | None = None
    clock: Clock = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


def measure(rig: Rig, ask: Ask, batch: int) -> dict[str, Any]:
    """Run the scenario after a warm-up and return the figures of one result.

    They are all figures but those that no run gives: recall, cold start, and what was asked.
    """
    options = rig.options
    for _ in range(options.warmup):
        for size in {batch, 1} if options.scenario == "server" else {batch}:
            ask([rig.questions[i % len(rig.questions)] for i in range(size)])
    own_peak = reset_peak()
    if options.scenario == "server":
        figures = _server(rig, ask, batch)
    else:
        run, joules = _metered(rig.meter, partial(_back_to_back, rig, ask, batch))
        figures = {**_figures(run, joules), "noise": _noise(run, options.scenario)}
    name = SCENARIOS[options.scenario].metric
    value = figures[name] if name in figures else figures["total"][name]
    return {
        **figures,
        "metric": {"name": name, "value": value},
        "peak_rss_mb": peak_rss_mb(),
        "peak_rss_of": "run" if own_peak else "process",
    }


def _server(rig: Rig, ask: Ask, batch: int) -> dict[str, Any]:
    """Search the highest rate, and return the figures of the last run at it.

    Where queries are late although none waits, no rate is tried and theirs are the figures.
    """
    options = rig.options
    spent: dict[Run, float | None] = {}
    alone = _back_to_back(rig, ask, 1)
    full = alone if batch == 1 else _back_to_back(rig, ask, batch)

    def try_rate(rate: float, attempt: int) -> Run:
        count = max(options.runs, math.ceil(BOUNDS * rate * options.bound_ms / 1000))
        arrivals = poisson(rate, count, np.random.default_rng([options.seed, attempt]))
        served = partial(serve, batch=batch, clock=rig.clock, sleep=rig.sleep)
        run, joules = _metered(rig.meter, lambda: served(ask, rig.questions, arrivals))
        spent[run] = joules
        return run

    if in_time(alone, options.bound_ms) < IN_TIME:
        search = Search(rate_qps=None, run=alone, step_qps=0.0, tried=())
    else:
        search = highest_rate(try_rate, full.qps, options.bound_ms)
    noise = _rate_noise(search, full)
    return {
        **_figures(search.run, spent.get(search.run)),
        "rate_qps": search.rate_qps and round(search.rate_qps, 4),
        "bound_ms": options.bound_ms,
        "in_time": round(in_time(search.run, options.bound_ms), 4),
        "goodput_qps": round(goodput_qps(search.run, options.bound_ms), 4),
        "tried": [
            {name: round(value, 4) for name, value in vars(tried).items()} for tried in search.tried
        ],
        "noise": {} if noise is None else {"rate_qps": round(noise, 4)},
    }


def _back_to_back(rig: Rig, ask: Ask, batch: int) -> Run:
    runs = rig.options.runs
    return back_to_back(ask, rig.questions, batch=batch, runs=runs, clock=rig.clock)


def _metered(meter: Meter | None, work: Callable[[], Run]) -> tuple[Run, float | None]:
    """Return what the work does and the joules it took; None without a meter that answers."""
    if meter is None:
        return work(), None
    try:
        meter.start()
    except FAILURES:
        return work(), None
    run = work()
    try:
        return run, meter.stop()
    except FAILURES:
        return run, None


def _figures(run: Run, joules: float | None) -> dict[str, Any]:
    unaccounted = run.unaccounted_ms
    bounds = {f"p{q}_ms": tail_bound(run.latency_ms, q) for q in (90, 99)}
    return {
        "runs": len(run.latency_ms),
        "queries": run.queries,
        "stages": {name: summary(values) for name, values in run.stages.items()},
        "unaccounted": {
            **summary(unaccounted),
            "share": round(float(unaccounted.sum() / run.latency_ms.sum()), 4),
        },
        "total": summary(run.latency_ms),
        "early_stopping": {name: b and round(b, 4) for name, b in bounds.items()},
        "qps": round(run.qps, 4),
        "energy_j_per_query": None if joules is None else round(joules / run.queries, 6),
        "gpu_event_ms": None,
    }


def _noise(run: Run, scenario: str) -> dict[str, float]:
    """Return how far each figure that is compared strays within the run, as shares of it."""
    if scenario == "offline":
        found = {"qps": block_noise(run.latency_ms, lambda values: float(np.mean(values)))}
    else:
        found = {
            "p50_ms": block_noise(run.latency_ms, partial(percentile, q=50)),
            "p90_ms": block_noise(run.latency_ms, partial(percentile, q=90)),
            "p99_ms": block_noise(run.latency_ms, partial(percentile, q=99), least=100),
        }
    return {name: round(noise, 4) for name, noise in found.items() if noise is not None}


def _rate_noise(search: Search, full: Run) -> float | None:
    """Return what the search told apart, and how far the calls that limit the rate stray."""
    strayed = block_noise(full.latency_ms, lambda values: float(np.mean(values)))
    if search.rate_qps is None or strayed is None:
        return None
    return search.step_qps / search.rate_qps + strayed
