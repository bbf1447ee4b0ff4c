"""Rows that are read ahead: the right ones, once each, and never many."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest

from cir_rt.prefetch import Parts, Prefetch


class Rows:
    """Numbers and their squares, and what was read of them."""

    def __init__(self, count: int) -> None:
        self.read_rows: list[int] = []
        self.threads: set[int] = set()
        self.numbers = np.arange(count)

    def __call__(self, start: int, stop: int) -> Parts:
        self.read_rows += range(start, stop)
        self.threads.add(threading.get_ident())
        return self.numbers[start:stop].copy(), self.numbers[start:stop, None] ** 2


def in_runs(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    cuts = sorted({0, count, *rng.integers(0, count, 5).tolist()})
    return list(pairwise(cuts))


@pytest.mark.parametrize("count", [1, 7, 19, 111])
@pytest.mark.parametrize("first", [1, 5, 200])
def test_each_row_is_read_once_by_one_other_thread(count: int, first: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(20):
        rows, longest, before = Rows(count), min(first, count), 0
        with Prefetch(rows, count, min(first, count)) as fetch:
            for start, stop in in_runs(rng, count):
                numbers, squares = fetch(start, stop)
                np.testing.assert_array_equal(numbers, np.arange(start, stop))
                np.testing.assert_array_equal(squares[:, 0], np.arange(start, stop) ** 2)
                longest, before = max(longest, stop - start), stop
                assert len(rows.read_rows) <= before + longest  # one run ahead, at most
        assert rows.read_rows == list(range(count))
        assert rows.threads.isdisjoint({threading.get_ident()})
        assert len(rows.threads) == 1


def test_reading_begins_before_it_is_asked_for() -> None:
    begun = threading.Event()

    def read(start: int, stop: int) -> Parts:
        begun.set()
        return (np.arange(start, stop),)

    with Prefetch(read, 8, 4):
        assert begun.wait(10)


def test_what_the_thread_raises_is_raised_where_it_is_asked_for() -> None:
    def read(start: int, stop: int) -> Parts:
        raise ValueError(f"no row {start}")

    with Prefetch(read, 8, 4) as fetch, pytest.raises(ValueError, match="no row 0"):
        fetch(0, 4)


def test_the_end_waits_for_the_thread() -> None:
    let, done = threading.Event(), threading.Event()

    def read(start: int, stop: int) -> Parts:
        let.wait(10)
        done.set()
        return (np.arange(start, stop),)

    with Prefetch(read, 8, 4):
        let.set()
    assert done.is_set()
