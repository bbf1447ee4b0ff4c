"""rescore.cu against its oracle, on the host harness and on a GPU where there is one."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from conftest import Bench
from test_scan import Answer, check, find, units, whole

from cir_rt.errors import UsageError
from cir_rt.kernels import rescore as wrapper
from cir_rt.kernels.reference import rescore, scan
from cir_rt.kernels.rescore import Rescore
from cir_rt.kernels.scan import Found


def run(
    bench: Bench, queries: np.ndarray, rows: np.ndarray, candidates: np.ndarray, k: int
) -> Answer:
    batch, count = candidates.shape
    shape = {"dim": queries.shape[1], "batch": batch, "candidates": count, "k": k}
    kernel, out = (
        Rescore(bench.device, bench.module, **shape),
        Found.allocate(bench.device, batch, k),
    )
    inputs = bench.put(queries), bench.put(rows), bench.put(candidates, "i4")
    bench.run(lambda stream: kernel(*inputs, out, stream))
    return bench.get(out.rows), bench.get(out.scores)


def picked(batch: int, rows: int, count: int, seed: int = 5) -> np.ndarray:
    """Return candidates, some of them missing."""
    rng = np.random.default_rng(seed)
    found = np.stack([rng.permutation(rows)[:count] for _ in range(batch)])
    return np.where(rng.random(found.shape) < 0.1, -1, found).astype(np.int32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("batch", "dim", "count", "k"),
    [(1, 64, 1, 1), (1, 256, 100, 100), (7, 111, 19, 7), (19, 33, 111, 10), (2, 64, 989, 989)],
)
def test_rescore_is_the_oracle(
    bench: Bench, batch: int, dim: int, count: int, k: int, dtype: Any
) -> None:
    queries, rows = whole(batch, dim, 1), whole(1500, dim, 2).astype(dtype)
    candidates = picked(batch, 1500, count)
    check(run(bench, queries, rows, candidates, k), rescore(queries, rows, candidates, k))


def test_scores_are_those_of_full_precision(bench: Bench) -> None:
    queries, rows = units(3, 256, 1), units(500, 256, 2)
    candidates = picked(3, 500, 100)
    found, expected = (
        run(bench, queries, rows, candidates, 20),
        rescore(queries, rows, candidates, 20),
    )
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


def test_no_candidates(bench: Bench) -> None:
    found = run(bench, whole(2, 64, 1), whole(9, 64, 2), np.full((2, 5), -1), 5)
    assert (found[0] == -1).all()
    assert np.isneginf(found[1]).all()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_order_of_threads_and_blocks_does_not_matter(bench: Bench, order: int) -> None:
    if bench.host is None:
        pytest.skip("a GPU chooses its order itself")
    bench.host.order = order
    queries, rows, candidates = whole(3, 64, 1), whole(500, 64, 2), picked(3, 500, 100)
    check(run(bench, queries, rows, candidates, 20), rescore(queries, rows, candidates, 20))


@pytest.mark.parametrize("step", ["signs", "prefix"])
def test_a_search_in_two_steps_finds_the_best(bench: Bench, step: str) -> None:
    """Signs, or the first 64 numbers, choose candidates; full precision puts them in order."""
    rng = np.random.default_rng(7)
    rows = units(989, 256, 2) * np.linspace(2, 0.2, 256, dtype=np.float32)
    queries = rows[[3, 500, 988]] + 0.3 * rng.standard_normal((3, 256), np.float32)
    if step == "signs":
        candidates, _ = find(bench, "b1", queries, rows, 200)
    else:
        candidates, _ = find(bench, "f16", queries, rows, 200, dim=64)
    found = run(bench, queries, rows, candidates, 10)
    np.testing.assert_array_equal(found[0][:, 0], [3, 500, 988])
    best = scan(queries, rows, 10)[0]
    shared = [len(set(a) & set(b)) for a, b in zip(found[0], best, strict=True)]
    assert np.mean(shared) > 6


def test_arguments_are_those_of_the_kernel(host_library: Any) -> None:
    library = ctypes.CDLL(str(host_library))
    size = ctypes.c_int.in_dll(library, "rescore_f32_bytes").value
    assert ctypes.sizeof(wrapper.Arguments) == size


def test_what_does_not_fit_is_refused(bench: Bench) -> None:
    shape = {"dim": 64, "batch": 2, "candidates": 5, "k": 3}
    kernel, out = Rescore(bench.device, bench.module, **shape), Found.allocate(bench.device, 2, 3)
    queries, rows, candidates = whole(2, 64, 1), whole(9, 64, 2), np.zeros((2, 5), "i4")
    for inputs in (
        (queries.astype("f2"), rows, candidates),
        (queries[:, :63], rows, candidates),
        (queries, rows[:, :63], candidates),
        (queries, rows, candidates[:, :4]),
        (np.tile(queries, (2, 1)), rows, np.tile(candidates, (2, 1))),
    ):
        arrays = [bench.put(x) for x in inputs]
        with pytest.raises(UsageError, match="Expected"):
            kernel(*arrays, out, bench.stream)
    with pytest.raises(UsageError, match="candidates"):
        Rescore(bench.device, bench.module, **{**shape, "k": 6})
