"""The sizes in which engines are run."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest

from cir_rt.buckets import bucket_length, first_bucket

BUCKETS = (8, 16, 32, 50, 100)


def runs_of(count: int, buckets: tuple[int, ...]) -> list[int]:
    runs = []
    while count > 0:
        runs.append(first_bucket(count, buckets))
        count -= runs[-1]
    return runs


@pytest.mark.parametrize("count", [1, 7, 8, 9, 19, 37, 49, 50, 51, 60, 99, 100, 111])
def test_no_choice_of_runs_pads_less(count: int) -> None:
    runs = runs_of(count, BUCKETS)
    every = [
        chosen
        for number in range(1, 6)
        for chosen in combinations_with_replacement(BUCKETS, number)
        if sum(chosen) >= count
    ]
    best = min((sum(chosen), len(chosen)) for chosen in every)
    assert (sum(runs), len(runs)) == best
    assert runs == sorted(runs, reverse=True)


@pytest.mark.parametrize("buckets", [(3,), (1, 512), (2, 4, 8)])
@pytest.mark.parametrize("count", [1, 989, 10_000])
def test_many_rows_go_in_the_largest_bucket(buckets: tuple[int, ...], count: int) -> None:
    runs = runs_of(count, buckets)
    assert 0 <= sum(runs) - count < buckets[0]
    assert runs.count(buckets[-1]) >= count // buckets[-1] - 1


def test_captions_are_padded_to_few_lengths() -> None:
    found = [bucket_length(n, 24) for n in range(1, 25)]
    assert sorted(set(found)) == [4, 8, 12, 16, 20, 24]
    assert all(length >= n for n, length in enumerate(found, 1))
    assert found == sorted(found)
    assert bucket_length(3, 3) == 3
    assert bucket_length(500, 512) == 512
