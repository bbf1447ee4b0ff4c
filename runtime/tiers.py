"""Scores of several kinds in one descending list.

What was read at full depth stands above what the cascade dropped, and that above what was only
pruned. Scores of two kinds cannot be compared, so a lower tier is lowered as a whole where it would
reach into the one above: its order and its differences stay.
"""

from __future__ import annotations

import numpy as np


def lowered(scores: np.ndarray, ceiling: float) -> np.ndarray:
    """Return (n,) float32 scores less a constant, 0 where it can be, so that all lie below ceiling.

    Where the constant is so large that float32 cannot tell two of them apart, they become equal.
    """
    top = np.nextafter(np.float32(ceiling), np.float32(-np.inf))
    excess = max(0.0, float(scores.max(initial=-np.inf)) - float(top))
    moved = (scores.astype(np.float64) - excess).astype(np.float32)
    return np.minimum(moved, top)
