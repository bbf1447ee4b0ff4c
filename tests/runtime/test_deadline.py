"""What can be done in the time that is left."""

from __future__ import annotations

import time

import pytest

from cir_rt.deadline import Deadline, Pace

SIZES = (8, 16, 32)


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 12.0)


def within(ms: float) -> Deadline:
    return Deadline(at_s=12.0 + ms / 1000)


def test_what_is_left(noon: None) -> None:
    assert within(250).left_ms == pytest.approx(250)
    assert within(-3).left_ms == pytest.approx(-3)
    assert Deadline().left_ms == float("inf")


@pytest.mark.parametrize(
    ("left_ms", "size"), [(-1, 0), (0, 0), (15.9, 0), (16.1, 8), (40, 16), (64.1, 32), (9e9, 32)]
)
def test_the_largest_run_that_fits(noon: None, left_ms: float, size: int) -> None:
    pace = Pace()
    pace.took(10, 20.0)  # 2 ms a row
    assert pace.fitting(SIZES, within(left_ms)) == size


def test_without_a_deadline_everything_fits(noon: None) -> None:
    pace = Pace()
    assert pace.fitting(SIZES, Deadline()) == 32
    pace.took(1, 1e9)
    assert pace.fitting(SIZES, Deadline()) == 32


def test_what_was_never_run_is_tried_small(noon: None) -> None:
    assert Pace().fitting(SIZES, within(0.001)) == 8
    assert Pace().fitting(SIZES, within(-0.001)) == 0


def test_slow_runs_are_believed_at_once_fast_ones_by_and_by() -> None:
    pace = Pace()
    pace.took(8, 8.0)
    pace.took(8, 32.0)
    assert pace.ms_per_row == 4.0
    seen = []
    for _ in range(30):
        pace.took(8, 8.0)
        seen.append(pace.ms_per_row)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 2
    assert seen[-1] == pytest.approx(1, abs=0.01)


def test_one_hiccup_does_not_forbid_every_run_to_come(noon: None) -> None:
    pace = Pace()
    pace.took(1, 10_000.0)
    refused = 0
    while not pace.fitting(SIZES, within(100)):
        refused += 1
        assert refused < 100
    assert refused > 1
