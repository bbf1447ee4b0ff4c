"""Hold mining and filtering against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from cir_rt.errors import UsageError
from cir_rt.export.train.filtering import Filtering, Found, find
from cir_rt.export.train.mining import Mining, mine


def unit_rows(n: int, dim: int = 6, *, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def sorted_by_hand(
    vectors: np.ndarray, groups: np.ndarray | None, labelled: set[tuple[int, int]], rule: Mining
) -> list[tuple[int, int]]:
    """Return every pair, a picture at a time."""
    pairs = []
    for reference in range(len(vectors)):
        allowed = []
        for target in range(len(vectors)):
            if target == reference or (reference, target) in labelled:
                continue
            if groups is not None and groups[target] != groups[reference]:
                continue
            cosine = float(vectors[reference] @ vectors[target])
            if cosine < rule.duplicate:
                allowed.append((-cosine, target))
        pairs += [(reference, target) for _, target in sorted(allowed)[: rule.neighbours]]
    return pairs


@pytest.mark.parametrize("n", [1, 7, 19, 311])  # 311 is more than a block
@pytest.mark.parametrize("grouped", [False, True])
def test_pairs_are_those_of_a_double_loop(n: int, grouped: bool) -> None:
    rng = np.random.default_rng(n)
    vectors = unit_rows(n)
    groups = rng.integers(3, size=n) if grouped else None
    labelled = rng.integers(n, size=(2 * n, 2))
    described = {(int(a), int(b)) for a, b in labelled}
    rule = Mining(neighbours=4, duplicate=0.8)
    pairs = mine(vectors, groups=groups, labelled=labelled, settings=rule)
    assert pairs.dtype == np.int64
    assert [tuple(p) for p in pairs.tolist()] == sorted_by_hand(vectors, groups, described, rule)
    again = mine(vectors, groups=groups, labelled=labelled, settings=rule)
    assert np.array_equal(pairs, again)


def test_a_pair_has_a_direction() -> None:
    """a and b are each other's nearest; the label of one direction leaves the other."""
    vectors = np.asarray([[1, 0], [0.8, 0.6], [-1, 0]], np.float32)
    rule = Mining(neighbours=1)
    assert mine(vectors, settings=rule).tolist() == [[0, 1], [1, 0], [2, 1]]
    labelled = np.asarray([[0, 1]])
    assert mine(vectors, labelled=labelled, settings=rule).tolist() == [[0, 2], [1, 0], [2, 1]]


def test_near_duplicates_are_no_pairs() -> None:
    twins = np.repeat(unit_rows(7), 2, axis=0)
    pairs = mine(twins, settings=Mining(neighbours=13, duplicate=0.999))
    assert len(pairs) == 14 * 12
    assert (pairs[:, 0] // 2 != pairs[:, 1] // 2).all()
    assert len(mine(twins, settings=Mining(neighbours=13, duplicate=2))) == 14 * 13


def test_equal_neighbours_come_by_row() -> None:
    vectors = np.asarray([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    assert mine(vectors, settings=Mining(neighbours=2))[:2].tolist() == [[0, 1], [0, 2]]


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_pictures_make_no_pair(n: int) -> None:
    assert mine(unit_rows(n)).shape == (0, 2)


@pytest.mark.parametrize(
    ("vectors", "more", "told"),
    [
        (np.zeros((3, 2)), {}, r"type float64. Expected \(pictures, dim\) float32"),
        (np.zeros((3, 2), "f4"), {"groups": np.zeros(2)}, r"groups of shape \(2,\)"),
        (np.zeros((3, 2), "f4"), {"labelled": np.zeros(2, int)}, r"pairs of shape \(2,\)"),
        (np.zeros((3, 2), "f4"), {"labelled": np.asarray([[0, 3]])}, "name row 3 of 3 pictures"),
        (np.zeros((3, 2), "f4"), {"labelled": np.asarray([[-1, 0]])}, "name row -1 of 3 pictures"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    vectors: np.ndarray, more: dict[str, np.ndarray], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        mine(vectors, **more)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("n", [1, 7, 300])
def test_ranks_are_counted_by_hand(n: int, grouped: bool) -> None:
    rng = np.random.default_rng(n)
    vectors, queries = unit_rows(19), unit_rows(n, seed=1)
    reference, target = rng.integers(19, size=(2, n))
    groups = rng.integers(2, size=19) if grouped else None
    found = find(queries, vectors, reference=reference, target=target, groups=groups)
    for k in range(n):
        scores = vectors @ queries[k]
        above = [
            other
            for other in range(19)
            if scores[other] > scores[target[k]] + 1e-6
            and other != reference[k]
            and (groups is None or groups[other] == groups[target[k]])
        ]
        assert found.ranks[k] == 1 + len(above)
        assert found.scores[k] == pytest.approx(scores[target[k]], abs=1e-6)


def test_equal_scores_share_a_rank() -> None:
    vectors = np.asarray([[1, 0], [0, 1], [1, 0], [1, 0], [2, 0]], np.float32)
    queries = np.asarray([[1, 0]] * 3, np.float32)
    rows = {"reference": np.asarray([1, 1, 4]), "target": np.asarray([0, 3, 3])}
    assert find(queries, vectors, **rows).ranks.tolist() == [2, 2, 1]


def scored(scores: list[float], ranks: list[int]) -> Found:
    return Found(scores=np.asarray(scores, np.float32), ranks=np.asarray(ranks, np.int64))


def test_a_triplet_is_kept_by_rank_or_by_score() -> None:
    labelled = scored([0.1, 0.4, 0.5, 0.9], [1, 2, 3, 4])
    found = scored([0.0, 0.0, 0.46, 0.45, 0.44], [3, 4, 99, 99, 99])
    rule = Filtering(rank=3, quantile=0.5)  # the labelled median is 0.45
    assert rule.keeps(found, labelled).tolist() == [True, False, True, False, False]
    assert Filtering(rank=0, quantile=1).keeps(found, labelled).tolist() == [False] * 5
    assert Filtering(rank=0, quantile=0).keeps(found, labelled).tolist() == [False] * 2 + [True] * 3


def test_without_labelled_triplets_the_rank_decides() -> None:
    found = scored([1.0, 0.2], [11, 10])
    assert Filtering().keeps(found, scored([], [])).tolist() == [False, True]


def test_impossible_settings_are_refused() -> None:
    for settings in ({"neighbours": 0}, {"duplicate": -1.0}):
        with pytest.raises(ValueError, match="expected"):
            Mining(**settings)  # type: ignore[arg-type]
    for settings in ({"rank": -1}, {"quantile": 1.5}):
        with pytest.raises(ValueError, match="expected"):
            Filtering(**settings)  # type: ignore[arg-type]
