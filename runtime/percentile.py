"""The percentile by nearest rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def percentile(values: Sequence[float] | np.ndarray, q: float) -> float:
    """Return the q-th percentile by nearest rank: always one of the values."""
    # NOTE: numpy's "inverted_cdf" divides q by 100 first, and takes the 8th of 100 values for p7.
    return float(np.sort(values)[max(0, math.ceil(q * len(values) / 100) - 1)])
