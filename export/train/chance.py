"""Randomness of a training step, fixed by where the step stands: a resumed run draws the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, kw_only=True)
class Chance:
    """Two generators for one purpose."""

    rng: np.random.Generator  # choices
    noise: torch.Generator  # augmentation


def chance(*place: int) -> Chance:
    """Return the generators of a place, such as (seed, stage, epoch, batch).

    The process-wide generator, which dropout draws from, is set too.
    """
    rng = np.random.default_rng(place)
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    torch.manual_seed(int(rng.integers(2**62)))
    return Chance(rng=rng, noise=noise)
