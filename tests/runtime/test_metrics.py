"""Recall against sorting every gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cir_rt.metrics import rank_agreement, recall, target_ranks

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


def test_agreement_is_the_share_of_common_rows() -> None:
    a = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert rank_agreement(a, a[:, ::-1]) == 1.0
    assert rank_agreement(a, a + 100) == 0.0
    assert rank_agreement(a, np.array([[1, 2, 30, 40], [5, 6, 7, 80]])) == (0.5 + 0.75) / 2
    assert rank_agreement(a[:0], a[:0]) == 1.0
