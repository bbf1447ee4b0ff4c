"""Which layers suffer from quantization, and in what order to give them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx

from cir_rt.calibration.quantize import quantizable
from cir_rt.calibration.recipe import Recipe

# A ViT-B has 73 products, of which six make a block: 13 groups are its blocks and its head.
GROUPS = 13
POINTS = 4  # between all quantized and none


@dataclass(frozen=True, kw_only=True)
class Group:
    """Neighbouring layers that are quantized or given back together, and what that does."""

    nodes: tuple[str, ...]
    damage: float  # 1 - mean cosine to FP32, this group alone quantized
    saved_ms: float  # of one input's time, this group alone quantized

    def worth(self, noise_ms: float) -> float:
        """Return the damage per millisecond; what saves less than the noise saves the noise."""
        return self.damage / max(self.saved_ms, noise_ms)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a recipe's engine was measured at."""

    damage: float
    saved_ms: float  # against FP32, in an alternating run
    noise_ms: float  # what such a run strays by


def groups(model: onnx.ModelProto, recipe: Recipe, most: int = GROUPS) -> list[tuple[str, ...]]:
    """Return the layers that the recipe quantizes, in graph order, in at most `most` groups."""
    nodes = quantizable(model, recipe)
    size = -(-len(nodes) // most)
    return [tuple(nodes[k : k + size]) for k in range(0, len(nodes), size or 1)]


def give_back_order(
    parts: Sequence[tuple[str, ...]], recipe: Recipe, measure: Callable[[Recipe], Trial]
) -> list[Group]:
    """Return the groups, the most damaging per millisecond saved first.

    Each is quantized alone: against an FP32 rest its damage stands out, where one given back
    would be lost in the damage of all the others. Errors of single layers add up nearly
    independently, so that the order of the lone ones is that of the whole.
    """
    every = {node for part in parts for node in part}
    found, noise = [], 0.0
    for part in parts:
        rest = tuple(node for node in sorted(every) if node not in part)
        trial = measure(replace(recipe, keep=(*recipe.keep, *rest)))
        noise = max(noise, trial.noise_ms, 1e-6)
        found.append(Group(nodes=part, damage=trial.damage, saved_ms=trial.saved_ms))
    return sorted(found, key=lambda group: group.worth(noise), reverse=True)


def path(order: Sequence[Group], recipe: Recipe, points: int = POINTS) -> list[Recipe]:
    """Return recipes from one group given back to all but one, evenly, at most `points`."""
    counts = range(1, len(order))
    picked = sorted({counts[k * len(counts) // points] for k in range(points)}) if counts else []
    return [
        replace(
            recipe,
            keep=(*recipe.keep, *(node for group in order[:count] for node in group.nodes)),
        )
        for count in picked
    ]
