"""The sensitivity search of one role: candidates between all quantized and FP32."""

from __future__ import annotations

import numpy as np
import onnx

from cir_rt.calibration.gate import cosines
from cir_rt.calibration.recipe import Recipe
from cir_rt.calibration.sensitivity import Trial, give_back_order, groups, path
from cir_rt.export.build.backends.protocol import Backend
from cir_rt.export.build.candidates import Candidate
from cir_rt.export.build.race import Race

PROBE = 64  # inputs that a layer's damage is measured on
RUNS = 30  # of a layer's race: an order is wanted, not a verdict


def between(
    exact: Candidate, quantized: Candidate, backend: Backend, race: Race
) -> list[Candidate]:
    """Return the role with ever more layers given back, most damaging per millisecond first.

    `exact` is the role in FP32, `quantized` with every layer quantized. Empty where the graph has
    a single group of layers.
    """
    recipe = quantized.recipe
    parts = groups(onnx.load(exact.path), recipe) if recipe else []
    if recipe is None or len(parts) < 2:
        return []

    def measure(lone: Recipe) -> Trial:
        candidate = backend.quantized(exact, lone, probe=PROBE)
        if candidate is None:
            return Trial(damage=0.0, saved_ms=0.0, noise_ms=0.0)
        run = race({exact.role: exact.engine}, {exact.role: candidate.engine}, runs=RUNS)
        near = cosines(exact.vectors[: len(candidate.vectors)], candidate.vectors)
        return Trial(
            damage=1 - near.mean,
            saved_ms=run.before_ms - run.after_ms,
            noise_ms=run.spread * run.before_ms,
        )

    order = give_back_order(parts, recipe, measure)
    found = [backend.quantized(exact, point) for point in path(order, recipe)]
    return [c for c in found if c is not None and np.isfinite(c.vectors).all()]
