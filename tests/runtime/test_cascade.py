"""Who goes the full depth, and how scores of several kinds make one list."""

from __future__ import annotations

import numpy as np
import pytest

from cir_rt.cascade import Survivors, survivors
from cir_rt.tiers import lowered


def brute(early: np.ndarray, margin: float, least: int) -> list[int]:
    """Return the survivors' places, best early score first, by the rule's own words."""
    order = sorted(range(len(early)), key=lambda n: (-early[n], n))
    return [n for rank, n in enumerate(order) if rank < least or early[n] >= early.max() - margin]


@pytest.mark.parametrize("count", [1, 7, 19, 111])
@pytest.mark.parametrize("margin", [0.0, 0.5, 100.0])
@pytest.mark.parametrize("least", [1, 5, 200])
def test_bucket_by_bucket_is_all_at_once(count: int, margin: float, least: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(10):
        early = rng.integers(-8, 8, count).astype(np.float32) / 8  # with many ties
        expected = brute(early, margin, least)
        assert np.flatnonzero(survivors(early, margin, least)).tolist() == sorted(expected)
        alive = Survivors(margin=margin, least=least)
        for start in range(0, count, 4):
            stop = min(start + 4, count)
            alive.add(start, early[start:stop], {"place": np.arange(start, stop)})
        alive.rank()
        assert alive.places.tolist() == expected
        assert alive.held(0, len(alive))["place"].tolist() == expected
        assert alive.held(1, 3)["place"].tolist() == expected[1:3]


def test_the_hopeless_are_not_held() -> None:
    alive = Survivors(margin=0.1, least=2)
    for start in range(0, 100, 10):
        alive.add(start, np.arange(start, start + 10, dtype=np.float32), {"row": np.zeros((10, 3))})
        assert len(alive) == 2
    assert alive.places.tolist() == [98, 99]


@pytest.mark.parametrize("ceiling", [np.inf, 5.0, 0.25, -7.0, -1e30])
def test_lowered_scores_lie_below_and_keep_their_order(ceiling: float) -> None:
    scores = np.array([0.5, -1, 0.25, 0.25, 3], np.float32)
    found = lowered(scores, ceiling)
    assert (found < ceiling).all()
    assert found.dtype == np.float32
    if ceiling > -1e29:
        np.testing.assert_array_equal(np.argsort(found, kind="stable"), [1, 2, 3, 0, 4])
        np.testing.assert_allclose(found - found[0], scores - scores[0], atol=1e-5)
    if ceiling > 3:
        np.testing.assert_array_equal(found, scores)  # nothing was in the way
    assert lowered(scores[:0], ceiling).shape == (0,)
