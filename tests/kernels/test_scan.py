"""scan.cu against its oracle, on the host harness and on a GPU where there is one.

On the host the twin of the tensor core's product runs; the instructions themselves are checked on
GPUs alone. Small whole numbers have exact sums, so that rows, scores and ties must be equal.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Bench

from cir_rt.errors import UsageError
from cir_rt.kernels import scan as wrapper
from cir_rt.kernels.reference import quantize, scan, scan_signs, sign_bits
from cir_rt.kernels.scan import Found, Rows, Scan, bitmap, padded

Answer = tuple[np.ndarray, np.ndarray]


def whole(rows: int, dim: int, seed: int, most: int = 3) -> np.ndarray:
    """Return vectors of small whole numbers: many ties."""
    rng = np.random.default_rng(seed)
    return rng.integers(-most, most + 1, (rows, dim)).astype(np.float32)


def units(rows: int, dim: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((rows, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def written(vectors: np.ndarray, precision: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return vectors as rows of this precision are written, and their scales."""
    if precision == "i8":
        return quantize(vectors)
    if precision == "b1":
        return sign_bits(vectors), None
    return vectors.astype(np.float16), None


def find(
    bench: Bench,
    precision: str,
    queries: np.ndarray,
    rows: np.ndarray,
    k: int,
    *,
    mask: np.ndarray | None = None,
    exclude: np.ndarray | None = None,
    dim: int | None = None,
) -> Answer:
    """Search on the device."""
    asked, query_scales = written(queries, precision)
    stored, row_scales = written(rows, precision)
    batch, put = len(queries), bench.put
    kernel = Scan(
        bench.device,
        bench.module,
        precision=precision,
        dim=dim or queries.shape[1],
        batch=batch,
        k=k,
        capacity=len(rows),
    )
    there = Rows(
        numbers=put(padded(stored, precision)),
        count=put([len(rows)], "i4"),
        scales=None if row_scales is None else put(row_scales),
        live=None if mask is None else put(bitmap(mask)),
    )
    out = Found.allocate(bench.device, batch, k)
    scales = None if query_scales is None else put(query_scales)
    excluded = None if exclude is None else put(exclude, "i4")
    bench.run(lambda s: kernel(put(asked), there, out, s, query_scales=scales, exclude=excluded))
    return bench.get(out.rows), bench.get(out.scores)


def oracle(precision: str, queries: np.ndarray, rows: np.ndarray, k: int, **rest: Any) -> Answer:
    asked, query_scales = written(queries, precision)
    stored, row_scales = written(rows, precision)
    if precision == "b1":
        return scan_signs(asked, stored, queries.shape[1], k, **rest)
    return scan(asked, stored, k, query_scales=query_scales, row_scales=row_scales, **rest)


def check(found: Answer, expected: Answer) -> None:
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("precision", ["f16", "i8", "b1"])
@pytest.mark.parametrize(
    ("rows", "dim", "batch", "k"),
    [
        (1, 64, 1, 1),
        (7, 64, 1, 7),
        (19, 111, 7, 5),
        (111, 64, 9, 111),
        (989, 64, 1, 100),
        (989, 33, 19, 1),
        (989, 64, 33, 20),
        (111, 256, 64, 10),
        (5000, 64, 2, 1024),
        (5000, 64, 3, 5),  # fewer than there are blocks: the other way through the merge
    ],
)
def test_scan_is_the_oracle(
    bench: Bench, precision: str, rows: int, dim: int, batch: int, k: int
) -> None:
    queries, stored = whole(batch, dim, 1), whole(rows, dim, 2)
    if precision == "i8":  # the greatest of each row is 3, so that all scales are the same
        queries[:, 0], stored[:, 0] = 3, 3
    check(find(bench, precision, queries, stored, k), oracle(precision, queries, stored, k))


@pytest.mark.parametrize("precision", ["f16", "i8"])
@pytest.mark.parametrize(("rows", "dim", "batch"), [(989, 256, 1), (989, 111, 7), (111, 1024, 19)])
def test_scores_of_real_numbers_are_near(
    bench: Bench, precision: str, rows: int, dim: int, batch: int
) -> None:
    queries, stored = units(batch, dim, 1), units(rows, dim, 2)
    places, scores = find(bench, precision, queries, stored, 20)
    expected = oracle(precision, queries, stored, rows)
    np.testing.assert_allclose(scores, expected[1][:, :20], rtol=1e-3, atol=1e-5)
    for query in range(batch):
        by_row = dict(zip(expected[0][query], expected[1][query], strict=True))
        own = [by_row[row] for row in places[query]]
        np.testing.assert_allclose(scores[query], own, rtol=1e-3, atol=1e-5)
        assert len(set(places[query])) == 20


@pytest.mark.parametrize("precision", ["f16", "i8", "b1"])
def test_deleted_rows_and_the_reference_are_not_found(bench: Bench, precision: str) -> None:
    queries, stored = whole(7, 64, 1), whole(989, 64, 2)
    queries[:, 0], stored[:, 0] = 3, 3
    mask = np.random.default_rng(3).random(989) < 0.3
    mask[64:96] = False  # a whole word of the bitmap
    first = oracle(precision, queries, stored, 1, mask=mask)[0][:, 0]
    exclude = np.where(np.arange(7) % 2, first, -1)
    rest = {"mask": mask, "exclude": exclude}
    found = find(bench, precision, queries, stored, 50, **rest)
    check(found, oracle(precision, queries, stored, 50, **rest))
    assert mask[found[0]].all()


@pytest.mark.parametrize("precision", ["f16", "b1"])
def test_all_deleted(bench: Bench, precision: str) -> None:
    queries, stored = whole(2, 64, 1), whole(111, 64, 2)
    places, scores = find(bench, precision, queries, stored, 10, mask=np.zeros(111, bool))
    assert (places == -1).all()
    assert np.isneginf(scores).all()


@pytest.mark.parametrize("precision", ["f16", "i8", "b1"])
def test_where_rows_run_out(bench: Bench, precision: str) -> None:
    queries, stored = whole(3, 64, 1), whole(7, 64, 2)
    queries[:, 0], stored[:, 0] = 3, 3
    check(find(bench, precision, queries, stored, 19), oracle(precision, queries, stored, 19))


@pytest.mark.parametrize("precision", ["f16", "i8", "b1"])
def test_among_equals_the_lower_row(bench: Bench, precision: str) -> None:
    """All rows are the same: the first k, whatever block they fell to and however often."""
    stored = np.tile(whole(1, 64, 1), (5000, 1))
    places, scores = find(bench, precision, stored[:1], stored, 300)
    np.testing.assert_array_equal(places[0], np.arange(300))
    assert len(set(scores[0])) == 1


@pytest.mark.parametrize("rising", [True, False])
def test_rows_in_order_of_their_scores(bench: Bench, rising: bool) -> None:
    """Where the scores rise, every row enters the queue and it is trimmed again and again."""
    rows = np.zeros((9000, 64), np.float32)
    rows[:, 0] = np.arange(9000) % 64
    rows[:, 1] = np.arange(9000) // 64
    rows = rows if rising else rows[::-1].copy()
    query = np.zeros((1, 64), np.float32)
    query[0, :2] = 1, 64
    check(find(bench, "f16", query, rows, 100), oracle("f16", query, rows, 100))


def test_numbers_that_are_no_numbers_are_not_found(bench: Bench) -> None:
    stored = whole(111, 64, 2)
    stored[[0, 50], 3], stored[60, 3] = np.nan, np.inf
    query = np.abs(whole(1, 64, 1)) + 1
    places, _ = find(bench, "f16", query, stored, 111)
    assert places[0, 0] == 60
    assert not {0, 50} & set(places[0])
    assert (places[0] == -1).sum() == 2


def test_the_beginning_of_rows_is_searched(bench: Bench) -> None:
    """The first step of a search by prefix: the first 64 numbers of 256."""
    queries, stored = whole(7, 256, 1), whole(989, 256, 2)
    found = find(bench, "f16", queries, stored, 100, dim=64)
    check(found, oracle("f16", queries[:, :64], stored[:, :64], 100))


def test_more_queries_than_one_reading_takes(bench: Bench) -> None:
    queries, stored = whole(70, 64, 1), whole(300, 64, 2)
    check(find(bench, "f16", queries, stored, 10), oracle("f16", queries, stored, 10))


def test_rows_that_are_added_and_deleted_are_seen(bench: Bench) -> None:
    """The number of rows and the bitmap are read on the device: a captured graph stays right."""
    queries, stored = whole(2, 64, 1), whole(989, 64, 2)
    numbers, put = bench.put(padded(stored.astype("f2"), "f16")), bench.put
    shape = {"precision": "f16", "dim": 64, "batch": 2, "k": 20, "capacity": 989}
    kernel, out = Scan(bench.device, bench.module, **shape), Found.allocate(bench.device, 2, 20)
    count, live = put([500], "i4"), put(bitmap(np.ones(989, bool)))
    rows, asked = Rows(numbers=numbers, count=count, live=live), put(queries.astype("f2"))
    bench.run(lambda s: kernel(asked, rows, out, s))
    check((bench.get(out.rows), bench.get(out.scores)), scan(queries, stored[:500], 20))
    with bench.stream.capture() as graph:
        kernel(asked, rows, out, bench.stream)
    mask = np.arange(989) % 3 > 0
    more, fewer = bench.device.pinned(4), bench.device.pinned(live.buffer.size_bytes)
    more[:], fewer[:] = np.array([989], "i4").view("u1"), bitmap(mask).view("u1")
    bench.stream.copy(count.buffer.address, more.ctypes.data, 4)
    bench.stream.copy(live.buffer.address, fewer.ctypes.data, len(fewer))
    bench.run(graph.launch)
    check((bench.get(out.rows), bench.get(out.scores)), scan(queries, stored, 20, mask))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("precision", ["f16", "b1"])
def test_the_order_of_threads_and_blocks_does_not_matter(
    bench: Bench, precision: str, order: int
) -> None:
    """A missing barrier shows here."""
    if bench.host is None:
        pytest.skip("a GPU chooses its order itself")
    bench.host.order = order
    queries, stored = whole(3, 64, 1), whole(6000, 64, 2)
    check(find(bench, precision, queries, stored, 50), oracle(precision, queries, stored, 50))


@pytest.mark.parametrize("precision", ["f16", "i8"])
@pytest.mark.parametrize(
    ("batch", "kernel"), [(1, 8), (8, 8), (9, 16), (17, 32), (33, 64), (64, 64)]
)
def test_the_rows_are_read_once(bench: Bench, precision: str, batch: int, kernel: int) -> None:
    if bench.host is None:
        pytest.skip("the host harness counts launches")
    find(bench, precision, whole(batch, 64, 1), whole(40, 64, 2), 3)
    assert bench.host.launched == [f"scan_{precision}_{kernel}", "scan_merge"]


@pytest.mark.parametrize("name", ["scan_f16_8", "scan_i8_64", "scan_b1_64", "scan_merge"])
def test_arguments_are_those_of_the_kernel(host_library: Any, name: str) -> None:
    library = ctypes.CDLL(str(host_library))
    size = ctypes.c_int.in_dll(library, f"{name}_bytes").value
    assert ctypes.sizeof(wrapper.Arguments) == size


def test_what_does_not_fit_is_refused(bench: Bench) -> None:
    def make(**changes: Any) -> Scan:
        shape = {"precision": "f16", "dim": 64, "batch": 2, "k": 10, "capacity": 40}
        return Scan(bench.device, bench.module, **{**shape, **changes})

    wrong: list[dict[str, Any]] = [{"precision": "f8"}, {"k": 1025}, {"k": 0}, {"dim": 1 << 20}]
    for changes in wrong:
        with pytest.raises(UsageError):
            make(**changes)
    queries, stored = whole(2, 64, 1).astype("f2"), whole(40, 64, 2).astype("f2")
    count, out = bench.put([40], "i4"), Found.allocate(bench.device, 2, 10)
    good = Rows(numbers=bench.put(stored), count=count)
    narrow = Rows(numbers=bench.put(stored[:, :32]), count=count)
    odd = Rows(numbers=bench.put(np.zeros((40, 65), "f2")), count=count)
    refused: list[Callable[[Scan], None]] = [
        lambda s: s(bench.put(queries.astype("f4")), good, out, bench.stream),
        lambda s: s(bench.put(whole(3, 64, 1), "f2"), good, out, bench.stream),
        lambda s: s(bench.put(queries), narrow, out, bench.stream),
        lambda s: s(bench.put(queries), odd, out, bench.stream),
        lambda s: s(bench.put(queries), good, Found.allocate(bench.device, 2, 9), bench.stream),
        lambda s: s(queries, good, out, bench.stream),
    ]
    for call in refused:
        with pytest.raises(UsageError, match="Expected"):
            call(make())
