"""compose.cu against its oracle, on the host harness and on a GPU where there is one.

What ran on the host alone shows the arithmetic and the barriers, not speed and not a GPU's memory
order.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from conftest import Bench

from cir_rt.errors import UsageError
from cir_rt.kernels import compose as wrapper
from cir_rt.kernels.compose import Compose, Composed
from cir_rt.kernels.cuda import DeviceArray, DeviceBuffer
from cir_rt.kernels.reference import Gate, compose, quantize, sign_bits


def gate(width: int, seed: int = 0, temperature: float = 0.7) -> Gate:
    rng = np.random.default_rng(seed)
    return Gate(
        hidden_weight=rng.standard_normal((width, 2 * width), np.float32),
        hidden_bias=rng.standard_normal(width, np.float32),
        gate_weight=rng.standard_normal((2, width), np.float32) / np.float32(width**0.5),
        gate_bias=rng.standard_normal(2, np.float32),
        temperature=temperature,
    )


def units(rows: int, width: int, seed: int, dtype: Any = np.float32) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((rows, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(dtype)


def run(
    bench: Bench, v: np.ndarray, u: np.ndarray, weights: Gate, weight: Any = None
) -> dict[str, np.ndarray]:
    """Compose on the device; every form, by its name."""
    rows, width = v.shape
    kernel = Compose(bench.device, bench.module, weights, batch=rows)
    out = Composed.allocate(bench.device, rows, width, half=True, codes=True, signs=True)
    given = None if weight is None else bench.put(weight, np.float32)
    bench.run(lambda stream: kernel(bench.put(v), bench.put(u), out, stream, given))
    return {name: bench.get(array) for name, array in vars(out).items()}


def check(found: dict[str, np.ndarray], query: np.ndarray, weights: np.ndarray) -> None:
    np.testing.assert_allclose(found["query"], query, atol=2e-6)
    np.testing.assert_allclose(found["weights"], weights, atol=2e-6)
    own = found["query"]
    np.testing.assert_array_equal(found["half"], own.astype(np.float16))
    np.testing.assert_array_equal(found["signs"], sign_bits(own))
    codes, scales = quantize(own)
    np.testing.assert_allclose(found["scales"], scales, rtol=1e-5)
    assert np.abs(found["codes"].astype(int) - codes).max() <= 1  # rounded the other way, rarely
    assert (found["codes"] != codes).mean() < 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("rows", "width"), [(1, 64), (1, 256), (7, 111), (9, 64), (19, 65), (111, 33), (1, 1024)]
)
def test_compose_is_the_oracle(bench: Bench, rows: int, width: int, dtype: Any) -> None:
    v, u, weights = units(rows, width, 1, dtype), units(rows, width, 2, dtype), gate(width)
    check(run(bench, v, u, weights), *compose(v.astype("f4"), u.astype("f4"), weights))


def test_the_largest_batch(bench: Bench) -> None:
    v, u, weights = units(256, 7, 1), units(256, 7, 2), gate(7)
    check(run(bench, v, u, weights), *compose(v, u, weights))


def test_a_weight_given_replaces_the_gates(bench: Bench) -> None:
    """Where it is NaN the gate decides, also among others that were given."""
    v, u, weights = units(19, 64, 1), units(19, 64, 2), gate(64)
    weight = np.linspace(0, 1, 19, dtype=np.float32)
    weight[[3, 11]] = np.nan
    found = run(bench, v, u, weights, weight)
    check(found, *compose(v, u, weights, weight))
    np.testing.assert_array_equal(found["weights"][:3, 0], weight[:3])


def test_what_cancels_out_is_zero_not_nan(bench: Bench) -> None:
    v = units(7, 64, 1)
    found = run(bench, v, -v, gate(64), np.full(7, 0.5))
    for name in ("query", "half", "codes", "scales", "signs"):
        assert not found[name].any(), name


def test_large_logits_do_not_overflow(bench: Bench) -> None:
    v, u, weights = units(7, 64, 1), units(7, 64, 2), gate(64, temperature=1e-4)
    found = run(bench, v, u, weights)
    assert np.isfinite(found["query"]).all()
    np.testing.assert_allclose(found["weights"].sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_inputs_begin_anywhere_and_have_gaps(bench: Bench, dtype: Any) -> None:
    """Rows lie 71 numbers apart and begin behind one number: no 16-byte load would do."""
    rows, width, weights = 7, 65, gate(65)
    both = units(2 * rows, width, 1, dtype)
    size = np.dtype(dtype).itemsize
    whole = np.full(1 + 2 * rows * 71, np.nan, dtype)
    placed = np.lib.stride_tricks.as_strided(whole[1:], (2 * rows, width), (71 * size, size))
    placed[:] = both
    array = bench.put(whole)

    class View:
        def __init__(self, first: int) -> None:
            self.__cuda_array_interface__ = {
                "version": 3,
                "shape": (rows, width),
                "typestr": np.dtype(dtype).str,
                "data": (array.buffer.address + size * (1 + 71 * first), False),
                "strides": (71 * size, size),
            }

    out = Composed.allocate(bench.device, rows, width, half=True, codes=True, signs=True)
    kernel = Compose(bench.device, bench.module, weights, batch=rows)
    bench.run(lambda stream: kernel(View(0), View(rows), out, stream))
    found = {name: bench.get(x) for name, x in vars(out).items()}
    v, u = both[:rows].astype("f4"), both[rows:].astype("f4")
    check(found, *compose(v, u, weights))


def test_the_forms_are_filled_with_zeros_behind_the_width(bench: Bench) -> None:
    rows, width = 7, 33
    v, u, weights = units(rows, width, 1), units(rows, width, 2), gate(width)
    plain = Composed.allocate(bench.device, rows, width)

    def room(columns: int, dtype: str) -> DeviceArray:
        return bench.put(np.full((rows, columns), 99), dtype)

    half, codes, signs = room(64, "f2"), room(128, "i1"), room(4, "u4")
    scales = bench.put(np.zeros(rows), "f4")
    forms = {"half": half, "codes": codes, "scales": scales, "signs": signs}
    out = Composed(query=plain.query, weights=plain.weights, **forms)
    kernel = Compose(bench.device, bench.module, weights, batch=rows)
    bench.run(lambda stream: kernel(bench.put(v), bench.put(u), out, stream))
    query = bench.get(out.query)
    np.testing.assert_array_equal(bench.get(half)[:, :width], query.astype("f2"))
    assert not bench.get(half)[:, width:].any()
    assert not bench.get(codes)[:, width:].any()
    np.testing.assert_array_equal(bench.get(signs), sign_bits(query))


def test_batch_is_single_and_twice_is_once(bench: Bench) -> None:
    """One kernel after another on the same scratch memory; a smaller batch than there is room."""
    v, u, weights = units(19, 64, 1), units(19, 64, 2), gate(64)
    kernel = Compose(bench.device, bench.module, weights, batch=19)
    whole = run(bench, v, u, weights)["query"]
    out = Composed.allocate(bench.device, 1, 64)
    for row in (0, 7, 18, 7):
        one = bench.put(v[row : row + 1]), bench.put(u[row : row + 1])
        bench.run(lambda stream, one=one: kernel(*one, out, stream))
        np.testing.assert_allclose(bench.get(out.query)[0], whole[row], atol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_order_of_threads_and_blocks_does_not_matter(bench: Bench, order: int) -> None:
    """A missing barrier shows here."""
    if bench.host is None:
        pytest.skip("a GPU chooses its order itself")
    v, u, weights = units(19, 65, 1), units(19, 65, 2), gate(65)
    straight = run(bench, v, u, weights)
    bench.host.order = order
    for name, values in run(bench, v, u, weights).items():
        np.testing.assert_array_equal(values, straight[name])


def test_composing_is_one_launch(bench: Bench) -> None:
    if bench.host is None:
        pytest.skip("the host harness counts launches")
    run(bench, units(7, 64, 1), units(7, 64, 2), gate(64))
    assert bench.host.launched == ["compose_f32_1"]


def test_arguments_are_those_of_the_kernel(host_library: Any) -> None:
    library = ctypes.CDLL(str(host_library))
    size = ctypes.c_int.in_dll(library, "compose_f32_1_bytes").value
    assert ctypes.sizeof(wrapper.Arguments) == size


def test_what_does_not_fit_is_refused(bench: Bench) -> None:
    kernel = Compose(bench.device, bench.module, gate(64), batch=7)
    out = Composed.allocate(bench.device, 7, 64)
    v = bench.put(units(7, 64, 1))
    narrow, many = bench.put(units(7, 63, 1)), bench.put(units(8, 64, 1))
    half = bench.put(units(7, 64, 1, np.float16))
    numbers = bench.put(np.ones((7, 64)), np.int32)
    odd = DeviceArray(DeviceBuffer(v.buffer.address + 2, 1), (6, 64), "<f4")
    for pair in ((narrow, narrow), (many, many), (v, half), (numbers, numbers), (odd, odd)):
        with pytest.raises(UsageError, match="Expected"):
            kernel(*pair, out, bench.stream)
    with pytest.raises(UsageError, match="on the GPU"):
        kernel(units(7, 64, 1), v, out, bench.stream)
    with pytest.raises(UsageError, match="Expected up to 1024"):
        Compose(bench.device, bench.module, gate(1025), batch=1)
