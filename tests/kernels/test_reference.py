"""The oracles against plain loops, and the composition against PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cir_rt.kernels.reference import (
    Gate,
    compose,
    quantize,
    rescore,
    scan,
    scan_signs,
    sign_bits,
)

DIM = 24
SIZES = (1, 7, 19, 111, 989)


def gate(dim: int = DIM, seed: int = 0, temperature: float = 0.7) -> Gate:
    rng = np.random.default_rng(seed)
    return Gate(
        hidden_weight=rng.standard_normal((dim, 2 * dim)).astype(np.float32),
        hidden_bias=rng.standard_normal(dim).astype(np.float32),
        gate_weight=rng.standard_normal((2, dim)).astype(np.float32),
        gate_bias=rng.standard_normal(2).astype(np.float32),
        temperature=temperature,
    )


def vectors(rows: int, seed: int, dim: int = DIM) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def by_hand(
    v: np.ndarray, u: np.ndarray, weights: Gate, weight: float | None = None
) -> tuple[list[float], tuple[float, float]]:
    """Compose one row in float64, number by number."""
    both = [float(x) for x in (*v, *u)]
    hidden = [
        max(0.0, sum(float(w) * x for w, x in zip(row, both, strict=True)) + float(b))
        for row, b in zip(weights.hidden_weight, weights.hidden_bias, strict=True)
    ]
    logits = [
        (sum(float(w) * h for w, h in zip(row, hidden, strict=True)) + float(b))
        / weights.temperature
        for row, b in zip(weights.gate_weight, weights.gate_bias, strict=True)
    ]
    picture = 1 / (1 + math.exp(logits[1] - logits[0])) if weight is None else weight
    mixed = [picture * float(a) + (1 - picture) * float(b) for a, b in zip(v, u, strict=True)]
    length = math.sqrt(sum(x * x for x in mixed))
    return [x / length for x in mixed], (picture, 1 - picture)


@pytest.mark.parametrize("rows", [1, 7, 19, 111])
@pytest.mark.parametrize("weight", [None, 0.0, 0.3, 1.0])
def test_compose_is_the_plain_loop(rows: int, weight: float | None) -> None:
    v, u, weights = vectors(rows, 1), vectors(rows, 2), gate()
    q, shares = compose(v, u, weights, weight)
    assert (q.shape, q.dtype) == ((rows, DIM), np.float32)
    assert (shares.shape, shares.dtype) == ((rows, 2), np.float32)
    for k in range(rows):
        expected, pair = by_hand(v[k], u[k], weights, weight)
        np.testing.assert_allclose(q[k], expected, atol=2e-6)
        np.testing.assert_allclose(shares[k], pair, atol=2e-6)


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_compose_is_the_module(rows: int, temperature: float) -> None:
    torch = pytest.importorskip("torch")
    from cir_rt.export.models.progressive import WeightedComposition

    weights = gate(seed=3, temperature=temperature)
    module = WeightedComposition(DIM, temperature)
    module.load_state_dict(
        {
            "hidden.weight": torch.from_numpy(weights.hidden_weight),
            "hidden.bias": torch.from_numpy(weights.hidden_bias),
            "gate.weight": torch.from_numpy(weights.gate_weight),
            "gate.bias": torch.from_numpy(weights.gate_bias),
        }
    )
    v, u = vectors(rows, 4), vectors(rows, 5)
    with torch.inference_mode():
        expected = module(torch.from_numpy(v), torch.from_numpy(u))
    for found, wanted in zip(compose(v, u, weights), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), atol=5e-6)


@pytest.mark.parametrize("rows", SIZES)
def test_weights_sum_to_one_and_queries_are_of_unit_length(rows: int) -> None:
    for weight in (None, 0.0, 0.3, 1.0):
        q, shares = compose(vectors(rows, 1), vectors(rows, 2), gate(), weight)
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
        assert shares.min() >= 0
        np.testing.assert_allclose(np.linalg.norm(q, axis=1), 1, atol=1e-6)


def test_the_ends_of_the_weight_are_picture_and_words() -> None:
    v, u = vectors(19, 1), vectors(19, 2)
    np.testing.assert_allclose(compose(v, u, gate(), 1)[0], v, atol=1e-6)
    np.testing.assert_allclose(compose(v, u, gate(), 0)[0], u, atol=1e-6)


def test_a_weight_for_each_row() -> None:
    v, u, weights = vectors(7, 1), vectors(7, 2), gate()
    each = np.linspace(0, 1, 7)
    q, shares = compose(v, u, weights, each)
    for k in range(7):
        alone, pair = compose(v[k : k + 1], u[k : k + 1], weights, float(each[k]))
        np.testing.assert_allclose(q[k], alone[0], atol=1e-6)
        np.testing.assert_array_equal(shares[k], pair[0])


@pytest.mark.parametrize("weight", [None, 0.3])
def test_batch_is_single(weight: float | None) -> None:
    v, u, weights = vectors(111, 1), vectors(111, 2), gate()
    q, shares = compose(v, u, weights, weight)
    for k in range(0, 111, 10):
        alone, pair = compose(v[k : k + 1], u[k : k + 1], weights, weight)
        np.testing.assert_allclose(q[k], alone[0], atol=1e-6)
        np.testing.assert_allclose(shares[k], pair[0], atol=1e-6)


def test_views_are_taken() -> None:
    v, u, weights = vectors(38, 1), vectors(38, 2), gate()
    expected = compose(np.ascontiguousarray(v[::-2]), np.ascontiguousarray(u[::-2]), weights)
    for found, wanted in zip(compose(v[::-2], u[::-2], weights), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_no_rows() -> None:
    for weight in (None, 0.5):
        q, shares = compose(vectors(0, 1), vectors(0, 2), gate(), weight)
        assert (q.shape, shares.shape) == ((0, DIM), (0, 2))


def test_what_cancels_out_is_zero_not_nan() -> None:
    v = vectors(7, 1)
    zero = np.zeros_like(v)
    for a, b, weight in ((zero, zero, None), (v, -v, 0.5), (zero, v, 1.0)):
        q, shares = compose(a, b, gate(), weight)
        assert np.isfinite(q).all()
        assert np.isfinite(shares).all()
        np.testing.assert_allclose(q, 0, atol=1e-6)
    q, _ = compose(zero, v, gate(), 0.5)
    np.testing.assert_allclose(q, v, atol=1e-5)


def test_inputs_are_left_as_they_were() -> None:
    v, u = vectors(7, 1), vectors(7, 2)
    before = v.copy(), u.copy()
    compose(v, u, gate())
    np.testing.assert_array_equal((v, u), before)


@settings(max_examples=50, deadline=None)
@given(
    scale=st.floats(1e-3, 1e4), rows=st.integers(1, 9), dim=st.integers(1, 40), seed=st.integers(0)
)
def test_large_logits_do_not_overflow(scale: float, rows: int, dim: int, seed: int) -> None:
    seed %= 1 << 32
    weights = gate(dim, seed, temperature=1 / scale)
    q, shares = compose(vectors(rows, seed, dim), vectors(rows, seed + 1, dim), weights)
    assert np.isfinite(q).all()
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)


def test_a_weight_that_is_not_a_number_leaves_the_row_to_the_gate() -> None:
    v, u, weights = vectors(7, 1), vectors(7, 2), gate()
    q, shares = compose(v, u, weights, np.array([0.1, np.nan, 1, np.nan, 0, 0.5, 0.9]))
    given = compose(v, u, weights, np.array([0.1, 0, 1, 0, 0, 0.5, 0.9]))
    own = compose(v, u, weights)
    for found, by_caller, by_gate in ((q, given[0], own[0]), (shares, given[1], own[1])):
        np.testing.assert_array_equal(found[[0, 2, 4, 5, 6]], by_caller[[0, 2, 4, 5, 6]])
        np.testing.assert_array_equal(found[[1, 3]], by_gate[[1, 3]])


def ranked(scores: list[tuple[float, int]], k: int) -> tuple[list[int], list[float]]:
    """Put (score, row) in order by hand, and fill up to k."""
    order = sorted(scores, key=lambda pair: (-pair[0], pair[1]))[:k]
    filler = [(-math.inf, -1)] * (k - len(order))
    return [row for _, row in order + filler], [score for score, _ in order + filler]


@pytest.mark.parametrize("k", [1, 7, 40])
def test_scan_is_the_plain_loop(k: int) -> None:
    """Whole numbers, so that there are ties; a mask and a row excluded from each query."""
    rng = np.random.default_rng(0)
    queries, rows = (rng.integers(-2, 3, (n, 5)).astype(np.float32) for n in (3, 30))
    mask, exclude = rng.random(30) < 0.7, np.array([-1, 4, 29])
    found = scan(queries, rows, k, mask, exclude)
    for query in range(3):
        scores = [
            (sum(float(a) * float(b) for a, b in zip(queries[query], row, strict=True)), i)
            for i, row in enumerate(rows)
            if mask[i] and i != exclude[query]
        ]
        expected = ranked(scores, k)
        assert found[0][query].tolist() == expected[0]
        assert found[1][query].tolist() == expected[1]
    assert [x.dtype for x in found] == [np.int32, np.float32]


def test_scan_of_codes_is_near_that_of_their_vectors() -> None:
    queries, rows = vectors(3, 1), vectors(111, 2)
    (asked, s), (stored, t) = quantize(queries), quantize(rows)
    found = scan(asked, stored, 5, query_scales=s, row_scales=t)
    np.testing.assert_allclose(found[1], scan(queries, rows, 5)[1], atol=0.02)


def test_quantize_is_undone_by_its_scales() -> None:
    x = vectors(19, 1)
    x[3] = 0
    codes, scales = quantize(x)
    assert codes.dtype == np.int8
    assert np.abs(codes).max(axis=1).tolist() == [127] * 3 + [0] + [127] * 15
    np.testing.assert_allclose(codes * scales[:, None], x, atol=scales.max() / 2 + 1e-7)


@pytest.mark.parametrize("dim", [1, 31, 128, 129])
def test_sign_bits_are_in_their_places(dim: int) -> None:
    x = np.random.default_rng(0).integers(-1, 2, (3, dim)).astype(np.float32)
    words = sign_bits(x)
    assert words.shape == (3, 4 * math.ceil(dim / 128))
    for row in range(3):
        bits = [int(words[row, i // 32]) >> (i % 32) & 1 for i in range(32 * words.shape[1])]
        assert bits == [int(value > 0) for value in x[row]] + [0] * (len(bits) - dim)


def test_scan_of_signs_counts_them() -> None:
    queries, rows = vectors(2, 1), vectors(40, 2)
    found = scan_signs(sign_bits(queries), sign_bits(rows), DIM, 10)
    for query in range(2):
        equal = ((queries[query] > 0) == (rows > 0)).sum(1)
        expected = ranked([(float(2 * n - DIM), i) for i, n in enumerate(equal)], 10)
        assert found[0][query].tolist() == expected[0]
        assert found[1][query].tolist() == expected[1]


def test_rescore_is_scan_among_the_candidates() -> None:
    rng = np.random.default_rng(0)
    queries, rows = (rng.integers(-2, 3, (n, 5)).astype(np.float32) for n in (3, 30))
    candidates = np.stack([rng.permutation(30)[:12] for _ in range(3)]).astype(np.int32)
    candidates[:, 3] = -1
    found = rescore(queries, rows, candidates, 15)
    for query in range(3):
        mask = np.isin(np.arange(30), candidates[query])
        expected = scan(queries[query : query + 1], rows, 15, mask)
        np.testing.assert_array_equal(found[0][query], expected[0][0])
        np.testing.assert_array_equal(found[1][query], expected[1][0])
