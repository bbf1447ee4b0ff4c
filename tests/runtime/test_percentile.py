"""Percentiles against sorted values."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest

from cir_rt.percentile import percentile


@pytest.mark.parametrize("size", [1, 2, 7, 19, 100, 111, 989])
def test_percentiles_are_by_nearest_rank(size: int) -> None:
    values = np.random.default_rng(size).random(size)
    ordered = sorted(values.tolist())
    for q in range(101):
        expected = ordered[max(0, ceil(Fraction(q * size, 100)) - 1)]
        assert percentile(values, q) == percentile(values.tolist(), q) == expected
