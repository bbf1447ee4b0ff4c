"""How far a graph strays from its PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from cir_rt.calibration.samples import Samples
from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import CALIBRATION, Checkpoint
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.samples import read_samples

TOLERANCE = 1e-4  # of the largest number that the module gives

Inputs = TypeVar("Inputs")


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Largest difference between a graph and its module, as a share of the largest number."""

    random_inputs: float
    real_inputs: float | None  # None where the checkpoint carries no calibration inputs


def compare(
    what: str,
    graph: Callable[[Inputs], np.ndarray],
    module: Callable[[Inputs], np.ndarray],
    *,
    random: Iterable[Inputs],
    real: Iterable[Inputs],
) -> Parity:
    """Run both on every input. Raises CheckpointError where they differ by more than 1e-4."""

    def worst(inputs: Iterable[Inputs]) -> float | None:
        strays = [_stray(graph(x), module(x)) for x in inputs]
        return float(np.max(strays)) if strays else None  # not a number is the worst of all

    found = Parity(random_inputs=worst(random) or 0.0, real_inputs=worst(real))
    for difference in (found.random_inputs, found.real_inputs or 0.0):
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"{what}: the graph differs from PyTorch by {difference:.2e}, the limit is "
                f"{TOLERANCE:g}."
            )
    return found


def _stray(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def real_samples(checkpoint: Checkpoint, folder: Path) -> Samples | None:
    """Return the calibration inputs in a graphs folder, as the checkpoint's model takes them."""
    if not (folder / CALIBRATION).exists():
        return None
    dataset = open_dataset(folder / CALIBRATION)
    return read_samples(dataset, checkpoint.config.preprocess, checkpoint.tokenizer())
