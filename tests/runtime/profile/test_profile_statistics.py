"""Statistics against numpy, and against sums of exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from cir_rt.percentile import percentile
from cir_rt.profile.statistics import block_noise, summary, tail_bound, variation


def spare(n: int, q: int) -> int:
    """Return the largest t with P(Binomial(n, 1 - q/100) <= t) <= 1/100, 0 where there is none."""
    late = Fraction(100 - q, 100)
    chance, t = Fraction(0), -1
    for k in range(n + 1):
        chance += comb(n, k) * late**k * (1 - late) ** (n - k)
        if chance > Fraction(1, 100):
            break
        t = k
    return max(t, 0)


@pytest.mark.parametrize("q", [50, 90, 99])
@pytest.mark.parametrize("size", [1, 7, 19, 63, 64, 111, 661, 662, 989])
def test_the_bound_of_a_tail_is_that_of_exact_sums(size: int, q: int) -> None:
    values = np.random.default_rng(size).permutation(size).astype(float)
    t = spare(size, q)
    assert tail_bound(values, q) == (size - t if t else None)


def test_the_bound_of_a_tail_needs_as_many_values_as_mlperfs() -> None:
    for q, least in ((90, 64), (99, 662)):
        assert tail_bound(np.arange(least - 1.0), q) is None
        assert tail_bound(np.arange(float(least)), q) == least - 1


def test_the_bound_of_a_tail_is_seldom_exceeded() -> None:
    rng, truth = np.random.default_rng(0), -np.log(0.1)  # p90 of the exponential distribution
    exceeded = sum(
        bound is not None and bound < truth
        for bound in (tail_bound(rng.exponential(size=200), 90) for _ in range(2000))
    )
    assert 0 < exceeded <= 0.015 * 2000


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_summary_is_numpys(size: int) -> None:
    values = np.random.default_rng(size).gamma(2.0, 3.0, size)
    found = summary(values)
    for q in (50, 90, 95, 99):
        assert percentile(values, q) in values
        expected = np.sort(values)[max(0, int(np.ceil(q * size / 100)) - 1)]
        assert found[f"p{q}_ms"] == pytest.approx(expected, abs=1e-4)
    assert found["mean_ms"] == pytest.approx(values.mean(), abs=1e-4)
    assert found["cv"] == pytest.approx(values.std() / values.mean(), abs=1e-4)


def test_nothing_but_zeros_does_not_vary() -> None:
    assert variation(np.zeros(5)) == 0.0


def test_noise_is_half_of_what_blocks_differ_by() -> None:
    def middle(values: np.ndarray) -> float:
        return percentile(values, 50)

    steady = np.tile([1.0, 2.0, 3.0, 4.0, 5.0], 20)
    assert block_noise(steady, middle) == 0.0
    drifting = np.repeat([9.0, 10.0, 10.0, 10.0, 11.0], 10)
    assert block_noise(drifting, middle) == pytest.approx(0.1)
    assert block_noise(drifting[1:], middle) is None
    assert block_noise(drifting[:5], middle, least=1) == 0.0
