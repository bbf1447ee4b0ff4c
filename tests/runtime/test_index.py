"""Every kind of index against sorting every score, at settings where none may miss a row."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from small_index import (
    DIM,
    SIZES,
    brute_force,
    built,
    clustered_vectors,
    grid_vectors,
    needs_library,
    recall,
    unit_vectors,
)

from cir_rt.errors import BackendMissing, UsageError
from cir_rt.gallery import approximate
from cir_rt.gallery.approximate import ApproximateIndex
from cir_rt.gallery.exact import ExactIndex
from cir_rt.gallery.index import KINDS, candidates_class, choose

pytestmark = pytest.mark.usefixtures("candidates_always")


@pytest.fixture(params=KINDS)
def kind(request):
    needs_library(request.param)
    return request.param


@pytest.fixture(params=KINDS[1:])
def approximate_kind(request):
    needs_library(request.param)
    return request.param


@pytest.fixture
def candidates_always(monkeypatch):
    """Let the library answer however few the rows are."""
    monkeypatch.setattr(approximate, "_SCANNED_FOR_A_CANDIDATE", -1)


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("make", [unit_vectors, grid_vectors])
def test_search_is_brute_force(kind, rows, make):
    vectors, queries = make(rows, 1), make(5, 2)
    index = built(kind, vectors)
    assert len(index) == rows
    draw = np.random.default_rng(3).random(rows)
    masks = (None, draw < 0.5, draw < 0.05, draw < 0.005, np.zeros(rows, bool))
    for k in (1, 10, max(rows, 1), rows + 5):
        for mask in masks:
            found, scores = index.search(queries, k, mask)
            assert found.dtype == np.int64
            assert scores.dtype == np.float32
            for i, query in enumerate(queries):
                expected_rows, expected_scores = brute_force(vectors, query, k, mask)
                np.testing.assert_array_equal(found[i], expected_rows)
                np.testing.assert_allclose(scores[i], expected_scores, atol=1e-6)


def test_equal_vectors_score_equal_and_lower_rows_win(kind):
    few = unit_vectors(9, 5, dim=61)
    vectors = few[np.random.default_rng(6).integers(0, 9, 989)]
    queries = unit_vectors(7, 7, dim=61)
    index = built(kind, vectors)
    for k in (1, 13, 120, 500):
        rows, scores = index.search(queries, k)
        for i, query in enumerate(queries):
            expected, _ = brute_force(vectors, query, k)
            np.testing.assert_array_equal(rows[i], expected)
            distinct = {tuple(vectors[row]) for row in rows[i]}
            assert len(set(scores[i].tolist())) == len(distinct)


def test_scores_are_those_of_the_exact_index(approximate_kind):
    vectors, queries = unit_vectors(989, 8), unit_vectors(30, 9)
    rows, scores = built(approximate_kind, vectors).search(queries, 11)
    known_rows, known_scores = ExactIndex(vectors).search(queries, 11)
    np.testing.assert_array_equal(rows, known_rows)
    np.testing.assert_array_equal(scores, known_scores)


def test_batch_is_single_bit_for_bit(kind):
    vectors, queries = unit_vectors(989, 8), unit_vectors(30, 9)
    index = built(kind, vectors)
    rows, scores = index.search(queries, 11)
    for i in range(0, 30, 7):
        one_rows, one_scores = index.search(queries[i : i + 1], 11)
        np.testing.assert_array_equal(rows[i : i + 1], one_rows)
        np.testing.assert_array_equal(scores[i : i + 1], one_scores)


def test_excluded_rows(kind):
    vectors = grid_vectors(111, 10)
    queries = vectors[[4, 5, 110]]
    mask = np.arange(111) != 5
    rows, _ = built(kind, vectors).search(queries, 20, mask, exclude=[4, None, 110])
    for i, excluded in enumerate((4, None, 110)):
        expected, _ = brute_force(vectors, queries[i], 20, mask, excluded)
        np.testing.assert_array_equal(rows[i], expected)


def test_a_query_that_may_return_fewer_ends_in_no_row(kind):
    vectors = grid_vectors(7, 11)
    index = built(kind, vectors)
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


def test_nothing_to_return(kind):
    queries = unit_vectors(3, 12)
    for vectors, mask in ((np.empty((0, DIM), np.float32), None), (queries, np.zeros(3, bool))):
        rows, scores = built(kind, vectors).search(queries, 10, mask)
        assert rows.shape == scores.shape == (3, 0)
    index = built(kind, queries)
    rows, scores = index.search(queries[:0], 2)
    assert rows.shape == scores.shape == (0, 2)
    rows, _ = built(kind, queries[:1]).search(queries, 5, exclude=[0, 0, 0])
    assert rows.shape == (3, 0)


@pytest.mark.parametrize("order", ["every other", "fortran", "backwards"])
def test_input_that_is_not_contiguous(kind, order):
    plain, queries = unit_vectors(111, 13), unit_vectors(7, 14)
    expected = built(kind, plain).search(queries, 9)
    if order == "every other":
        wide = np.zeros((222, 2 * DIM), np.float32)
        wide[::2, ::2] = plain
        vectors, asked = wide[::2, ::2], np.repeat(queries, 2, axis=1)[:, ::2]
    elif order == "fortran":
        vectors, asked = np.asfortranarray(plain), np.asfortranarray(queries)
    else:
        vectors, asked = plain[::-1].copy()[::-1], queries[::-1].copy()[::-1]
    for found, known in zip(built(kind, vectors).search(asked, 9), expected, strict=True):
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
def test_wrong_calls_are_refused(kind, queries, k, mask, exclude):
    with pytest.raises(UsageError, match="Expected"):
        built(kind, unit_vectors(7, 15)).search(queries, k, mask, exclude=exclude)


def test_rows_deleted_before_and_after_the_build(approximate_kind):
    vectors, queries = unit_vectors(989, 16), unit_vectors(7, 17)
    live = np.random.default_rng(18).random(989) < 0.7
    index = built(approximate_kind, vectors, live)
    later = live & (np.random.default_rng(19).random(989) < 0.7)
    for mask in (live, later):
        rows, _ = index.search(queries, 20, mask)
        for i, query in enumerate(queries):
            np.testing.assert_array_equal(rows[i], brute_force(vectors, query, 20, mask)[0])


def test_newer_rows_are_found_before_they_are_covered(approximate_kind):
    vectors, queries = unit_vectors(989, 20), unit_vectors(7, 21)
    index = built(approximate_kind, vectors[:700])
    index.extend(vectors)
    assert (index.covered, len(index)) == (700, 989)
    mask = np.random.default_rng(22).random(989) < 0.5
    for allowed in (None, mask, np.arange(989) >= 700):
        rows, _ = index.search(queries, 30, allowed, exclude=[800] * 7)
        for i, query in enumerate(queries):
            expected, _ = brute_force(vectors, query, 30, allowed, 800)
            np.testing.assert_array_equal(rows[i], expected)


def test_the_settings_as_shipped_miss_little(approximate_kind, monkeypatch):
    """The library's own candidates, with no query answered by scoring every row."""
    vectors, queries = clustered_vectors(3000, 23), clustered_vectors(60, 24)
    cls, changes = candidates_class(approximate_kind)
    candidates = cls(64, cls.Settings(**changes), device="cpu", threads=2)
    index = ApproximateIndex(vectors, candidates, kind=approximate_kind, covered=0)
    index.grow(np.ones(3000, bool))
    mask = np.random.default_rng(25).random(3000) < 0.5
    scanned, scan = [], index._exact.scan

    def counted(queries, mask, ranking, chosen, *, first=0):
        scanned.append(len(chosen) if first == 0 else 0)
        scan(queries, mask, ranking, chosen, first=first)

    monkeypatch.setattr(index._exact, "scan", counted)
    for allowed in (None, mask):
        known, _ = ExactIndex(vectors).search(queries, 20, allowed)
        found, scores = index.search(queries, 20, allowed)
        assert sum(scanned) == 0
        assert recall(found, known) >= 0.97
        assert (np.diff(scores, axis=1) <= 0).all()


class Forgetful:
    """Candidates that never come back with all that were asked for."""

    class settings:
        overfetch = 1.0

    def add(self, vectors, rows, progress=None):
        pass

    def find(self, queries, count):
        return np.full((len(queries), count), -1)


def test_as_many_come_back_as_are_there_whatever_the_library_forgets():
    vectors, queries = unit_vectors(400, 26), unit_vectors(7, 27)
    index = ApproximateIndex(vectors, Forgetful(), kind="hnsw", covered=0)
    index.grow(np.ones(400, bool))
    found = index.search(queries, 20, exclude=[None] * 6 + [3])
    known = ExactIndex(vectors).search(queries, 20, exclude=[None] * 6 + [3])
    np.testing.assert_array_equal(found, known)


def test_few_allowed_rows_are_scored_without_the_library(monkeypatch):
    monkeypatch.undo()
    vectors, queries = unit_vectors(989, 28), unit_vectors(7, 29)
    index = ApproximateIndex(vectors, None, kind="hnsw", covered=989)
    index.candidates = Forgetful()
    monkeypatch.setattr(Forgetful, "find", None)  # fails where it is called
    mask = np.random.default_rng(30).random(989) < 0.01
    found, _ = index.search(queries, 50, mask)
    known, _ = ExactIndex(vectors).search(queries, 50, mask)
    np.testing.assert_array_equal(found, known)


@pytest.mark.parametrize(("kind_", "library"), [("hnsw", "hnswlib"), ("faiss", "faiss")])
def test_a_missing_library_is_named(kind_, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    cls, _ = candidates_class(kind_)
    with pytest.raises(BackendMissing, match="pip install"):
        cls(8, cls.Settings(), device="cpu", threads=1)


def test_faiss_for_a_gpu_is_asked_for_by_name():
    faiss = pytest.importorskip("faiss")
    if hasattr(faiss, "StandardGpuResources"):
        pytest.skip("this faiss runs on a GPU")
    cls, changes = candidates_class("faiss-flat")
    with pytest.raises(BackendMissing, match="faiss-gpu"):
        cls(8, cls.Settings(**changes), device="cuda:0", threads=1)


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(UsageError, match="'faiss-ivf'"):
        candidates_class("fais-ivf")


@pytest.mark.parametrize("kind_", KINDS[1:])
def test_settings_that_cannot_be_are_refused(kind_):
    cls, _ = candidates_class(kind_)
    for field in ("ef_search", "ef_construction", "overfetch"):
        with pytest.raises(ValueError, match="expected"):
            cls.Settings(**{field: 0})


@pytest.mark.parametrize(
    ("rows", "device", "libraries", "precision", "kind_"),
    [
        (0, "cpu", (), "fp32", "exact"),
        (50_000, "cpu", ("hnswlib", "faiss"), "fp32", "exact"),
        (50_001, "cpu", ("hnswlib", "faiss"), "fp32", "hnsw"),
        (50_001, "cpu", ("faiss",), "fp32", "faiss"),
        (1_000_000, "cpu", ("hnswlib", "faiss"), "fp32", "faiss"),
        (1_000_000, "cpu", ("hnswlib",), "fp32", "hnsw"),
        (1_000_000, "cpu", (), "fp32", "exact"),
        (20_000, "cpu", ("hnswlib", "faiss"), "fp16", "faiss-fp16"),
        (20_000, "cpu", ("hnswlib",), "int8", "hnsw"),
        (20_000, "cpu", (), "int8", "exact"),
        (1_000_000, "cuda:0", ("hnswlib", "faiss"), "fp32", "exact"),
        (20_000, "cuda", ("hnswlib", "faiss"), "int8", "exact"),
    ],
)
def test_the_choice_by_size_device_and_libraries(rows, device, libraries, precision, kind_):
    kind, reason = choose(rows, device, libraries, precision)
    assert kind == kind_
    assert f"{rows:,}" in reason
    if not libraries and rows > 5000:
        assert "pip install" in reason
