"""Engines raced on one real input, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cir_rt.calibration.gate import Duel, duel
from cir_rt.calibration.samples import Samples
from cir_rt.engines.protocol import Engine

RUNS = 150


class Race:
    """Times sets of engines, by role, each on one real input of its role."""

    def __init__(self, samples: Samples, roles: tuple[str, ...]) -> None:
        self._inputs = {
            role: {name: rows[:1] for name, rows in feeds[0].items()}
            for role in roles
            if (feeds := samples.feeds(role))
        }

    def __call__(
        self, before: Mapping[str, Engine], after: Mapping[str, Engine], *, runs: int = RUNS
    ) -> Duel:
        """Return the milliseconds of one input through each set, measured alternately."""
        return duel(self._once(before), self._once(after), runs=runs)

    def _once(self, engines: Mapping[str, Engine]) -> Callable[[], None]:
        inputs: list[tuple[Engine, dict[str, np.ndarray]]] = [
            (engine, self._inputs[role]) for role, engine in engines.items() if role in self._inputs
        ]

        def run() -> None:
            for engine, feed in inputs:
                engine.run(feed)

        return run
