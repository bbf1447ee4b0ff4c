"""Find the cascade's margin, and hold it against every other."""

from __future__ import annotations

import numpy as np
import pytest

from cir_rt.calibration.margin import cascaded, find_margin


def scores(queries: int, candidates: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Early scores that tell the whole ones as well as the noise lets them."""
    rng = np.random.default_rng(queries + candidates)
    whole = rng.standard_normal((queries, candidates)).astype(np.float32)
    return whole + noise * rng.standard_normal(whole.shape).astype(np.float32), whole


def missed(found: np.ndarray, whole: np.ndarray) -> float:
    """Percent of the queries whose best candidate is another."""
    return 100 * float((found.argmax(1) != whole.argmax(1)).mean())


@pytest.mark.parametrize("candidates", [1, 7, 19, 111])
def test_what_is_dropped_stands_below_in_the_early_order(candidates: int) -> None:
    early, whole = scores(7, candidates, 1.0)
    found, share = cascaded(early, whole, 0.5, 3)
    kept = 0
    for row in range(7):
        order = np.argsort(-early[row], kind="stable")
        alive = {int(c) for c in order[:3]}
        alive |= {int(c) for c in np.flatnonzero(early[row] >= early[row].max() - 0.5)}
        kept += len(alive)
        first = sorted(alive, key=lambda c: -whole[row, c])
        rest = [int(c) for c in order if int(c) not in alive]
        assert np.argsort(-found[row], kind="stable").tolist() == first + rest
    assert share == pytest.approx(kept / (7 * candidates))


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_the_margin_is_the_smallest_that_every_wider_one_bears_out(noise: float) -> None:
    early, whole = scores(111, 19, noise)
    found = find_margin(early, whole, least=1, loss=lambda s: missed(s, whole), limit=5.0)
    assert found.lost <= 5.0
    assert found.share < 1
    for margin in np.linspace(found.margin, np.ptp(early, axis=1).max(), 50):
        assert missed(cascaded(early, whole, float(margin), 1)[0], whole) <= 5.0
    _, share = cascaded(early, whole, found.margin, 1)
    assert share == found.share
    wider = find_margin(early, whole, least=1, loss=lambda s: missed(s, whole), limit=1.0)
    assert wider.margin > found.margin


def test_where_nothing_may_be_lost_everything_goes_on() -> None:
    _, whole = scores(19, 7, 1.0)
    found = find_margin(-whole, whole, least=1, loss=lambda s: missed(s, whole), limit=0.0)
    assert (found.share, found.lost) == (1.0, 0.0)
    assert cascaded(-whole, whole, found.margin, 1)[1] == 1.0
    perfect = find_margin(whole, whole, least=1, loss=lambda s: missed(s, whole), limit=0.0)
    assert perfect.margin == 0


def test_numbers_that_are_none_lose_everything() -> None:
    early, whole = scores(19, 7, 1.0)
    found = find_margin(early, whole, least=1, loss=lambda s: float("nan"), limit=100.0)
    assert found.share == 1.0
