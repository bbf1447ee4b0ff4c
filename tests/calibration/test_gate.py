"""Check the gates: agreement, recall, and time by a clock that is made."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cir_rt.calibration.gate import (
    Cosines,
    Duel,
    agreement_gate,
    check,
    cosine_gate,
    cosines,
    duel,
    latency_gate,
    recall_drop,
    recall_gate,
    top_agreement,
)
from cir_rt.errors import GateError


class Bench:
    """Two engines and the clock that they move, in seconds."""

    def __init__(self, before: list[float], after: list[float]) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        self._times = {"before": before, "after": after}

    def clock(self) -> float:
        return self.now

    def before(self) -> None:
        self._run("before")

    def after(self) -> None:
        self._run("after")

    def _run(self, side: str) -> None:
        times = self._times[side]
        self.now += times[self.calls.count(side) % len(times)]
        self.calls.append(side)


def raced(before: list[float], after: list[float], runs: int = 100) -> tuple[Duel, Bench]:
    bench = Bench(before, after)
    return duel(bench.before, bench.after, runs=runs, clock=bench.clock), bench


def test_a_duel_alternates_after_a_warm_up() -> None:
    _, bench = raced([0.002], [0.001], runs=30)
    assert bench.calls == ["before", "after"] * 40


def test_a_duel_takes_medians_in_milliseconds() -> None:
    slow_now_and_then = [0.004] * 9 + [1.0]
    result, _ = raced(slow_now_and_then, [0.003])
    assert result.before_ms == pytest.approx(4)
    assert result.after_ms == pytest.approx(3)
    assert result.ratio == pytest.approx(0.75)
    assert result.spread == pytest.approx(0, abs=1e-9)


def test_the_spread_is_half_the_middle_half() -> None:
    result, _ = raced([0.010], [0.008, 0.009, 0.011, 0.012])
    assert result.spread == pytest.approx((1.2 - 0.9) / 2)


def test_the_warm_up_is_not_counted() -> None:
    result, _ = raced([9.0] * 10 + [0.002] * 30, [9.0] * 10 + [0.001] * 30, runs=30)
    assert (result.before_ms, result.after_ms) == pytest.approx((2, 1))


@pytest.mark.parametrize(
    ("ratio", "spread", "passes"),
    [(0.5, 0.0, True), (1.05, 0.0, True), (1.06, 0.0, False), (1.14, 0.1, True), (1.2, 0.1, False)],
)
def test_latency_allows_five_percent_with_the_spread(
    ratio: float, spread: float, passes: bool
) -> None:
    result = Duel(before_ms=2.0, after_ms=2 * ratio, spread=spread)
    if passes:
        check([latency_gate(result, "one query")])
        return
    with pytest.raises(GateError, match=r"one query: .* ms, slower than the 2\.00 ms that it"):
        check([latency_gate(result, "one query")])


def test_a_slower_engine_is_told_what_to_type() -> None:
    with pytest.raises(GateError, match=r"spread 10%.*--precision auto, or --keep-slower"):
        check([latency_gate(Duel(before_ms=1, after_ms=2, spread=0.1), "one query")])


def test_recall_drop_is_the_largest_loss() -> None:
    before = {"R@1": 20.0, "R@10": 60.0}
    assert recall_drop(before, {"R@1": 19.0, "R@10": 57.5}) == 2.5
    assert recall_drop(before, {"R@1": 21.0, "R@10": 61.0}) == -1
    assert recall_drop(before, before) == 0
    assert recall_drop({}, {}) == 0


def test_recall_over_the_limit_is_told() -> None:
    before, after = {"R@1": 20.0, "R@10": 60.0}, {"R@1": 19.4, "R@10": 60.0}
    check([recall_gate(before, after, 0.6001, "engines")])
    message = (
        r"engines: recall fell by 0\.60 points, the limit is 0\.5 \(R@1 20\.00, R@10 60\.00 ->"
    )
    with pytest.raises(GateError, match=message):
        check([recall_gate(before, after, 0.5, "engines")])
    with pytest.raises(GateError, match="--max-recall-drop"):
        check([recall_gate(before, {"R@1": 20.0, "R@10": 0.0}, 0.5, "engines")])


def test_a_recall_that_is_no_number_is_a_loss() -> None:
    with pytest.raises(GateError):
        check([recall_gate({"R@1": 20.0}, {"R@1": math.nan}, 0.5, "engines")])


@pytest.mark.parametrize("n", [1, 7, 111])
def test_cosines_are_row_by_row(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((2, n, 5))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    wanted = [float(np.dot(x, y)) for x, y in zip(a, b, strict=True)]
    got = cosines(a, b)
    assert got.minimum == pytest.approx(min(wanted))
    assert got.mean == pytest.approx(sum(wanted) / n)
    assert cosines(a, a).minimum == pytest.approx(1)


def test_the_first_shut_gate_speaks() -> None:
    gates = [
        agreement_gate(97.0, 90.0, "pictures"),
        agreement_gate(88.0, 90.0, "words"),
        cosine_gate(Cosines(minimum=0.5, mean=0.9), 0.98, "image"),
    ]
    assert [gate.passed for gate in gates] == [True, False, False]
    with pytest.raises(GateError, match=r"words: 88\.0 % of FP32's top 10.*--min-agreement"):
        check(gates)
    with pytest.raises(GateError, match=r"image: the cosine to FP32 is 0\.9000.*--min-cosine"):
        check(gates[2:])
    assert not cosine_gate(Cosines(minimum=math.nan, mean=math.nan), 0.98, "image").passed


@pytest.mark.parametrize(
    ("ratio", "spread", "won"),
    [
        (0.99, 0.0, True),
        (0.99, 0.2, False),  # 1.57 * 0.4 / 10 is 6 %: chance
        (0.98, 0.02, True),
        (0.96, 0.2, True),  # by more than 3 %: the slower one may not stay
        (1.0, 0.0, False),
        (1.2, 0.5, False),
    ],
)
def test_a_duel_is_won_by_more_than_chance(ratio: float, spread: float, won: bool) -> None:
    assert Duel(before_ms=1.0, after_ms=ratio, spread=spread, runs=100).won is won


@pytest.mark.parametrize("columns", [1, 7, 10, 19])
def test_agreement_counts_what_is_shared(columns: int) -> None:
    rng = np.random.default_rng(columns)
    before, after = rng.standard_normal((2, 11, columns))
    k = min(10, columns)
    wanted = [
        len(set(np.argsort(-a)[:k].tolist()) & set(np.argsort(-b)[:k].tolist())) / k
        for a, b in zip(before, after, strict=True)
    ]
    assert top_agreement(before, after) == pytest.approx(100 * float(np.mean(wanted)))
    assert top_agreement(before, before) == 100
    assert top_agreement(before, -before) < 100 or columns <= 10
