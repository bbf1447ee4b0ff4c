"""Exact search against sorting every score."""

from __future__ import annotations

import numpy as np
import pytest

from cir_rt.errors import UsageError
from cir_rt.gallery import ExactIndex, exact

SIZES = (1, 7, 19, 111, 989)
DIM = 24


def unit_vectors(rows: int, seed: int, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def grid_vectors(rows: int, seed: int, dim: int = DIM) -> np.ndarray:
    """Vectors whose inner products are exact in FP32 whatever the order, so that many tie."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, dim)).astype(np.float32) / 8


def brute_force(vectors, query, k, mask=None, excluded=None):
    scores = (vectors.astype(np.float64) * query).sum(axis=1)  # equal for equal vectors
    allowed = np.ones(len(vectors), bool) if mask is None else mask.copy()
    if excluded is not None:
        allowed[excluded] = False
    rows = np.flatnonzero(allowed)
    rows = rows[np.lexsort((rows, -scores[rows]))][:k]
    return rows, scores[rows]


@pytest.fixture(params=[1 << 22, 64 * DIM], ids=["one block", "many blocks"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(exact, "_BLOCK_NUMBERS", request.param)
    monkeypatch.setattr(exact, "_MIN_BLOCK_ROWS", 1)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("make", [unit_vectors, grid_vectors])
def test_search_is_brute_force(rows, make):
    vectors, queries = make(rows, 1), make(5, 2)
    mask = np.random.default_rng(3).random(rows) < 0.6
    sparse = np.random.default_rng(4).random(rows) < 0.05
    for k in (1, 10, rows, rows + 5):
        for allowed in (None, mask, sparse):
            found, scores = ExactIndex(vectors).search(queries, k, allowed)
            assert found.dtype == np.int64
            assert scores.dtype == np.float32
            for i, query in enumerate(queries):
                expected_rows, expected_scores = brute_force(vectors, query, k, allowed)
                np.testing.assert_array_equal(found[i], expected_rows)
                np.testing.assert_allclose(scores[i], expected_scores, atol=1e-6)


@pytest.mark.usefixtures("_blocks")
def test_equal_vectors_score_equal_and_lower_rows_win():
    few = unit_vectors(9, 5, dim=61)
    vectors = few[np.random.default_rng(6).integers(0, 9, 989)]
    queries = unit_vectors(7, 7, dim=61)
    for k in (1, 13, 120, 500):
        rows, scores = ExactIndex(vectors).search(queries, k)
        for i, query in enumerate(queries):
            expected, _ = brute_force(vectors, query, k)
            np.testing.assert_array_equal(rows[i], expected)
            distinct = {tuple(vectors[row]) for row in rows[i]}
            assert len(set(scores[i].tolist())) == len(distinct)


def test_batch_is_single_bit_for_bit():
    vectors, queries = unit_vectors(2989, 8), unit_vectors(300, 9)
    index = ExactIndex(vectors)
    rows, scores = index.search(queries, 11)
    for i in range(0, 300, 7):
        one_rows, one_scores = index.search(queries[i : i + 1], 11)
        np.testing.assert_array_equal(rows[i : i + 1], one_rows)
        np.testing.assert_array_equal(scores[i : i + 1], one_scores)


@pytest.mark.usefixtures("_blocks")
def test_excluded_rows():
    vectors = grid_vectors(111, 10)
    queries = vectors[[4, 5, 110]]
    mask = np.arange(111) != 5
    rows, _ = ExactIndex(vectors).search(queries, 20, mask, exclude=[4, None, 110])
    for i, excluded in enumerate((4, None, 110)):
        expected, _ = brute_force(vectors, queries[i], 20, mask, excluded)
        np.testing.assert_array_equal(rows[i], expected)


def test_a_query_that_may_return_fewer_ends_in_no_row():
    vectors = grid_vectors(7, 11)
    index = ExactIndex(vectors)
    rows, scores = index.search(vectors[:2], 9, exclude=[0, None])
    assert rows.shape == (2, 7)
    assert rows[0, -1] == -1
    assert scores[0, -1] == -np.inf
    assert sorted(rows[0, :-1]) == [1, 2, 3, 4, 5, 6]
    assert sorted(rows[1]) == list(range(7))
    rows, _ = index.search(vectors[:2], 9, exclude=[0, 1])
    assert rows.shape == (2, 6)
    rows, _ = index.search(vectors[:1], 9, np.arange(7) > 2, exclude=[0])
    assert rows.shape == (1, 4)


def test_nothing_to_return():
    queries = unit_vectors(3, 12)
    for vectors, mask in ((np.empty((0, DIM), np.float32), None), (queries, np.zeros(3, bool))):
        rows, scores = ExactIndex(vectors).search(queries, 10, mask)
        assert rows.shape == scores.shape == (3, 0)
    rows, scores = ExactIndex(queries).search(queries[:0], 2)
    assert rows.shape == scores.shape == (0, 2)
    rows, _ = ExactIndex(queries[:1]).search(queries, 5, exclude=[0, 0, 0])
    assert rows.shape == (3, 0)


@pytest.mark.parametrize("order", ["every other", "fortran", "backwards"])
def test_input_that_is_not_contiguous(order):
    plain, queries = unit_vectors(111, 13), unit_vectors(7, 14)
    index = ExactIndex(plain)
    expected = index.search(queries, 9)
    if order == "every other":
        wide = np.zeros((222, 2 * DIM), np.float32)
        wide[::2, ::2] = plain
        vectors, asked = wide[::2, ::2], np.repeat(queries, 2, axis=1)[:, ::2]
    elif order == "fortran":
        vectors, asked = np.asfortranarray(plain), np.asfortranarray(queries)
    else:
        vectors, asked = plain[::-1].copy()[::-1], queries[::-1].copy()[::-1]
    for found, known in zip(ExactIndex(vectors).search(asked, 9), expected, strict=True):
        np.testing.assert_array_equal(found, known)


@pytest.mark.parametrize(
    ("queries", "k", "mask", "exclude"),
    [
        (np.zeros((1, 3), np.float32), 1, None, None),
        (np.zeros(DIM, np.float32), 1, None, None),
        (np.zeros((1, DIM)), 1, None, None),
        (np.full((1, DIM), np.nan, np.float32), 1, None, None),
        (np.zeros((1, DIM), np.float32), 0, None, None),
        (np.zeros((1, DIM), np.float32), 1, np.ones(6, bool), None),
        (np.zeros((1, DIM), np.float32), 1, np.ones(7, int), None),
        (np.zeros((1, DIM), np.float32), 1, None, [1, 2]),
    ],
)
def test_wrong_calls_are_refused(queries, k, mask, exclude):
    with pytest.raises(UsageError, match="Expected"):
        ExactIndex(unit_vectors(7, 15)).search(queries, k, mask, exclude=exclude)
