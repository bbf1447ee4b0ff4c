"""Recall against sorting every gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cir_rt.metrics import (
    average_precision,
    best_rows,
    rank_agreement,
    recall,
    target_ranks,
)

SIZES = (1, 7, 19, 111, 989)


def brute_force(
    scores: np.ndarray, targets: Sequence[Sequence[int]], removed: Sequence[int | None]
) -> list[int]:
    """Sort every gallery, the lower row first among equals, and look for the first target."""
    ranks = []
    for row, wanted, gone in zip(scores, targets, removed, strict=True):
        ranked = sorted(range(len(row)), key=lambda k: (-row[k], k))
        ranked = [k for k in ranked if k != gone]
        ranks.append(min(ranked.index(k) for k in wanted if k != gone))
    return ranks


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("levels", [None, 3], ids=["distinct", "ties"])
def test_ranks_are_those_of_sorting(size: int, levels: int | None) -> None:
    rng = np.random.default_rng(size)
    queries = 19
    scores = rng.standard_normal((queries, size)).astype(np.float32)
    if levels:
        scores = rng.integers(0, levels, (queries, size)).astype(np.float32)
    targets = [rng.permutation(size)[: 1 + k % 3].tolist() for k in range(queries)]
    kept: list[int | None] = [None] * queries
    assert target_ranks(scores, targets).tolist() == brute_force(scores, targets, kept)
    assert target_ranks(scores, targets, removed=kept).tolist() == brute_force(
        scores, targets, kept
    )
    if size > 3:
        removed = [next(r for r in rng.permutation(size) if r not in t) for t in targets]
        assert target_ranks(scores, targets, removed=removed).tolist() == brute_force(
            scores, targets, removed
        )


def test_equal_scores_rank_by_lower_row() -> None:
    scores = np.zeros((3, 5), np.float32)
    assert target_ranks(scores, [[0], [4], [3, 2]]).tolist() == [0, 4, 2]
    assert target_ranks(scores, [[4], [4], [4]], removed=[0, None, 3]).tolist() == [3, 4, 3]


def test_views_are_taken() -> None:
    scores = np.random.default_rng(0).standard_normal((6, 38)).astype(np.float32)
    targets = [[k] for k in range(6)]
    expected = target_ranks(np.ascontiguousarray(scores[:, ::2]), targets).tolist()
    assert target_ranks(scores[:, ::2], targets).tolist() == expected


def test_recall_is_the_share_below_k() -> None:
    ranks = np.array([0, 0, 1, 9, 10, 50, 700])
    found = recall(ranks, (1, 10, 50, 1000))
    assert found == {"R@1": 28.57, "R@10": 57.14, "R@50": 71.43, "R@1000": 100.0}
    assert recall(np.array([], np.int64), (1,)) == {"R@1": 0.0}
    assert recall(ranks, (1,), name="Rs") == {"Rs@1": 28.57}


def test_scores_that_are_no_numbers_are_no_success() -> None:
    scores = np.full((3, 5), np.nan, np.float32)
    try:
        ranks = target_ranks(scores, [[4], [3], [2]])
    except ValueError:
        return
    assert recall(ranks, (1,)) == {"R@1": 0.0}


def test_a_query_without_a_target_in_the_gallery_is_a_miss() -> None:
    ranks = target_ranks(np.zeros((2, 5), np.float32), [[], [0]])
    assert recall(ranks, (1, 5)) == {"R@1": 50.0, "R@5": 50.0}


def ranking(row: np.ndarray, allowed: set[int]) -> list[int]:
    """Return the allowed rows, best first, the lower one first among equals."""
    return [k for k in sorted(range(len(row)), key=lambda k: (-row[k], k)) if k in allowed]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("levels", [None, 3], ids=["distinct", "ties"])
def test_some_rows_are_ranked_among_themselves(size: int, levels: int | None) -> None:
    """Rows may be named and the reference removed from them, as CIRR's subset recall does."""
    rng = np.random.default_rng(size)
    queries = 19
    scores = rng.standard_normal((queries, size)).astype(np.float32)
    if levels:
        scores = rng.integers(0, levels, (queries, size)).astype(np.float32)
    among = [rng.permutation(size)[: 1 + k % 6].tolist() for k in range(queries)]
    removed = [int(rng.integers(size)) if k % 2 else None for k in range(queries)]
    targets = [[int(rng.choice(rows))] for rows in among]
    ranks = target_ranks(scores, targets, removed=removed, among=among).tolist()
    best = best_rows(scores, 3, removed=removed, among=among)
    for k, row in enumerate(scores):
        ranked = ranking(row, set(among[k]) - {removed[k]})
        assert best[k].tolist() == ranked[:3]
        if targets[k][0] in ranked:
            assert ranks[k] == ranked.index(targets[k][0])
        else:
            assert ranks[k] > size
    everything = best_rows(scores, size, removed=removed)
    for k, row in enumerate(scores):
        assert everything[k].tolist() == ranking(row, set(range(size)) - {removed[k]})


def test_a_target_that_is_removed_is_never_found() -> None:
    """One published pair of shoes asks for its own reference."""
    scores = np.array([[3, 2, 1]], np.float32)
    assert target_ranks(scores, [[0, 2]], removed=[0]).tolist() == [1]
    assert recall(target_ranks(scores, [[0]], removed=[0]), (3,)) == {"R@3": 0.0}


def naive_precision(ranked: list[int], wanted: set[int], k: int) -> float:
    """Average the precision at each place within k that holds a target, as CIRCO defines it."""
    total = 0.0
    for place in range(1, min(k, len(ranked)) + 1):
        if ranked[place - 1] in wanted:
            total += len(wanted & set(ranked[:place])) / place
    return total / min(k, len(wanted)) if wanted else 0.0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [1, 10, 2000])
def test_average_precision_is_that_of_its_definition(size: int, k: int) -> None:
    rng = np.random.default_rng(size)
    scores = rng.integers(0, 40, (19, size)).astype(np.float32)
    targets = [rng.integers(0, size, q % 7).tolist() for q in range(19)]  # some twice, some none
    removed = [int(rng.integers(size)) if q % 2 else None for q in range(19)]
    expected = [
        naive_precision(ranking(row, set(range(size)) - {gone}), set(wanted) - {gone}, k)
        for row, wanted, gone in zip(scores, targets, removed, strict=True)
    ]
    assert average_precision(scores, targets, k, removed=removed) == pytest.approx(expected)


def test_average_precision_by_hand() -> None:
    scores = np.array([[9, 8, 7, 6]], np.float32)
    assert average_precision(scores, [[0, 2]], 4).tolist() == [(1 + 2 / 3) / 2]
    assert average_precision(scores, [[0, 1, 2]], 2).tolist() == [1.0]  # no room for the third
    assert average_precision(scores, [[1]], 4, removed=[0]).tolist() == [1.0]
    with pytest.raises(ValueError, match="NaN"):
        average_precision(np.full((1, 2), np.nan), [[0]], 1)


def test_agreement_is_the_share_of_common_rows() -> None:
    a = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert rank_agreement(a, a[:, ::-1]) == 1.0
    assert rank_agreement(a, a + 100) == 0.0
    assert rank_agreement(a, np.array([[1, 2, 30, 40], [5, 6, 7, 80]])) == (0.5 + 0.75) / 2
    assert rank_agreement(a[:0], a[:0]) == 1.0
