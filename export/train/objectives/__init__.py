"""What the stages of a recipe learn from: one file each, all behind one face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from cir_rt.export.train.chance import Chance


class Objective(Protocol):
    """Batches of one stage, and their loss."""

    def batches(self, rng: np.random.Generator) -> Sequence[Any]:
        """Draw an epoch. Raises ConfigError where there is none."""

    def losses(self, batch: Any, chance: Chance) -> dict[str, Tensor]:
        """Return the loss's terms, weighted: their sum is minimised."""
