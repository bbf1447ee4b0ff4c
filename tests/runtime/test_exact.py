"""Exact search in blocks of any size; test_index holds it to what every index promises."""

from __future__ import annotations

import numpy as np
import pytest
from small_index import DIM, brute_force, grid_vectors, unit_vectors

from cir_rt.errors import UsageError
from cir_rt.gallery import ExactIndex, exact

SIZES = (1, 7, 19, 111, 989)


@pytest.fixture(params=[64 * DIM, 7 * DIM], ids=["64 rows", "7 rows"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(exact, "_BLOCK_NUMBERS", request.param)
    monkeypatch.setattr(exact, "_MIN_BLOCK_ROWS", 1)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("make", [unit_vectors, grid_vectors])
def test_search_is_brute_force(rows, make):
    vectors, queries = make(rows, 1), make(5, 2)
    draw = np.random.default_rng(3).random(rows)
    for k in (1, 10, rows, rows + 5):
        for mask in (None, draw < 0.6, draw < 0.05, np.arange(rows) >= rows // 2):
            found, scores = ExactIndex(vectors).search(queries, k, mask)
            for i, query in enumerate(queries):
                expected_rows, expected_scores = brute_force(vectors, query, k, mask)
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


@pytest.mark.usefixtures("_blocks")
def test_excluded_rows():
    vectors = grid_vectors(111, 10)
    queries = vectors[[4, 5, 110]]
    mask = np.arange(111) != 5
    rows, _ = ExactIndex(vectors).search(queries, 20, mask, exclude=[4, None, 110])
    for i, excluded in enumerate((4, None, 110)):
        expected, _ = brute_force(vectors, queries[i], 20, mask, excluded)
        np.testing.assert_array_equal(rows[i], expected)


def test_more_queries_than_are_scored_together():
    vectors, queries = unit_vectors(2989, 8), unit_vectors(300, 9)
    index = ExactIndex(vectors)
    rows, scores = index.search(queries, 11)
    for i in range(0, 300, 7):
        one_rows, one_scores = index.search(queries[i : i + 1], 11)
        np.testing.assert_array_equal(rows[i : i + 1], one_rows)
        np.testing.assert_array_equal(scores[i : i + 1], one_scores)


@pytest.mark.parametrize(
    "vectors", [np.zeros((7, DIM)), np.zeros(7, np.float32), np.zeros((7, 2, 2), np.float32)]
)
def test_vectors_of_another_shape_or_type_are_refused(vectors):
    with pytest.raises(UsageError, match="Expected"):
        ExactIndex(vectors)
