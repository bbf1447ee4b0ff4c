"""Whether the machine was quiet enough for its figures to be quoted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cir_rt.percentile import percentile
from cir_rt.profile.statistics import variation

TURNS, ROUNDS = 40, 20_000  # of the spin: about half a millisecond each
VARIATION = 0.10  # of the spin, at most; a quiet machine stays below half of it
DRIFT = 0.05  # of its median, from before to after
BUSY = 0.5  # cores' worth of others' work, by the load average before the profile's own
_CPUS = "sys/devices/system/cpu"


@dataclass(frozen=True, kw_only=True)
class Spin:
    """A fixed piece of work, timed again and again: what varies is the machine."""

    median_ms: float
    cv: float


def spin(clock: Callable[[], float] = time.perf_counter) -> Spin:
    """Time the fixed work."""
    times = np.empty(TURNS)
    for i in range(TURNS):
        start = clock()
        total = 0
        for number in range(ROUNDS):
            total += number
        times[i] = 1000 * (clock() - start)
    return Spin(median_ms=percentile(times, 50), cv=variation(times))


def load_average() -> float | None:
    """Return how many threads ran or wanted to, over the last minute; None where not told."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def governors(root: Path = Path("/")) -> tuple[str, ...]:
    """Return the rules by which the cores' clocks rise and fall, each once; () where not told."""
    files = sorted((root / _CPUS).glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return tuple(sorted({file.read_text(encoding="ascii").strip() for file in files}))


def judged(
    before: Spin, after: Spin, *, load: float | None, governor: tuple[str, ...]
) -> dict[str, Any]:
    """Return what was seen, with a warning for each thing that forbids quoting the figures."""
    drift = after.median_ms / before.median_ms - 1 if before.median_ms else 0.0
    warnings = []
    for when, seen in (("before", before), ("after", after)):
        if seen.cv > VARIATION:
            warnings.append(
                f"a fixed piece of work varied by {seen.cv:.0%} {when} the runs (limit "
                f"{VARIATION:.0%}): something else was running."
            )
    if abs(drift) > DRIFT:
        warnings.append(
            f"a fixed piece of work took {drift:+.0%} after the runs (limit {DRIFT:.0%}): the "
            "clock changed, by heat or by load."
        )
    if load is not None and load > BUSY:
        warnings.append(f"the load average was {load:.2f} before the runs (limit {BUSY:g}).")
    if slow := [name for name in governor if name != "performance"]:
        warnings.append(
            f"the CPU's governor is {', '.join(slow)}. Fix the clock:  "
            "cpupower frequency-set -g performance"
        )
    return {
        "spin_ms": round(after.median_ms, 4),
        "spin_cv": round(max(before.cv, after.cv), 4),
        "spin_drift": round(drift, 4),
        "load_average": load,
        "governors": list(governor),
        "warnings": warnings,
    }
