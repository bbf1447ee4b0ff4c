"""What every engine does, held against numpy: one conformance test for all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cir_rt.engines import Engine, TensorSpec
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.errors import BackendMissing, BundleError, EngineMismatch

# name -> how it is opened; a new engine is a row
ENGINES: dict[str, Callable[[Path], Engine]] = {
    "onnxruntime on cpu": lambda path: OnnxRuntimeEngine(path, device="cpu", threads=1),
}
WEIGHT = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write x (batch, 5) float32, n (batch, 1) int64 -> sum = x W + n, double = 2 x."""
    node = helper.make_node
    float_, whole = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        [
            node("MatMul", ["x", "w"], ["product"]),
            node("Cast", ["n"], ["shift"], to=float_),
            node("Add", ["product", "shift"], ["sum"]),
            node("Add", ["x", "x"], ["double"]),
        ],
        "conformance",
        [
            helper.make_tensor_value_info("x", float_, ["batch", 5]),
            helper.make_tensor_value_info("n", whole, ["batch", 1]),
        ],
        [
            helper.make_tensor_value_info("sum", float_, ["batch", 3]),
            helper.make_tensor_value_info("double", float_, ["batch", 5]),
        ],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    file = tmp_path_factory.mktemp("engines") / "graph.onnx"
    file.write_bytes(model.SerializeToString())
    return file


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, path: Path) -> Engine:
    return ENGINES[request.param](path)


def feed(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((rows, 5)).astype(np.float32),
        "n": rng.integers(-9, 9, (rows, 1)),
    }


def oracle(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    x = inputs["x"].astype(np.float64)
    return {"sum": x @ WEIGHT + inputs["n"], "double": 2 * x}


def check(found: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> None:
    expected = oracle(inputs)
    assert set(found) == set(expected)
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], atol=1e-5)


def test_specs(engine: Engine) -> None:
    assert engine.inputs == (
        TensorSpec(name="x", dtype="float32", shape=("batch", 5)),
        TensorSpec(name="n", dtype="int64", shape=("batch", 1)),
    )
    assert engine.outputs == (
        TensorSpec(name="sum", dtype="float32", shape=("batch", 3)),
        TensorSpec(name="double", dtype="float32", shape=("batch", 5)),
    )
    assert engine.device in repr(engine)


@pytest.mark.parametrize("rows", [0, 1, 7, 19, 111, 989])
def test_sizes(engine: Engine, rows: int) -> None:
    inputs = feed(rows)
    check(engine.run(inputs), inputs)


def test_batch_is_single(engine: Engine) -> None:
    inputs = feed(19)
    whole = engine.run(inputs)
    for k in range(19):
        alone = engine.run({name: array[k : k + 1] for name, array in inputs.items()})
        for name in whole:
            np.testing.assert_allclose(alone[name][0], whole[name][k], atol=1e-6)


def test_inputs_need_not_be_contiguous_nor_in_order(engine: Engine) -> None:
    inputs = feed(14)
    wide = np.zeros((14, 10), np.float32)
    wide[:, ::2] = inputs["x"]
    check(engine.run({"n": inputs["n"], "x": wide[:, ::2]}), inputs)
    turned = {name: array[::-1] for name, array in inputs.items()}
    check(engine.run(turned), turned)
    out = {"sum": np.zeros((14, 3), np.float32), "double": np.zeros((14, 5), np.float32)}
    check(engine.run({"n": inputs["n"], "x": wide[:, ::2]}, out=out), inputs)


def test_out_is_written_in_place(engine: Engine) -> None:
    out = {"sum": np.zeros((7, 3), np.float32), "double": np.zeros((7, 5), np.float32)}
    for seed in (0, 1):
        inputs = feed(7, seed)
        found = engine.run(inputs, out=out)
        assert found["sum"] is out["sum"]
        assert found["double"] is out["double"]
        check(out, inputs)


def test_results_do_not_share_memory(engine: Engine) -> None:
    inputs = feed(7)
    first = engine.run(inputs)
    engine.run(feed(7, 1))
    check(first, inputs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": np.zeros((2, 6), np.float32)}, "expected x float32.*got float32.*6"),
        ({"x": np.zeros(5, np.float32)}, "expected x float32"),
        ({"x": np.zeros((2, 5, 1), np.float32)}, "expected x float32"),
        ({"x": np.zeros((2, 5), np.float64)}, "expected x float32.*got float64"),
        ({"n": np.zeros((2, 1), np.int32)}, "expected n int64.*got int32"),
        ({"x": [[0.0] * 5] * 2}, "expected x float32.*got list"),
        ({"x": None}, "expected x float32.*got NoneType"),
        ({"y": np.zeros((2, 5), np.float32)}, r"unknown inputs \['y'\]. Expected: x, n"),
    ],
)
def test_what_does_not_fit_is_refused(engine: Engine, change: dict, said: str) -> None:
    with pytest.raises(EngineMismatch, match=said):
        engine.run({**feed(2), **change})


def test_a_missing_input_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineMismatch, match="expected n int64"):
        engine.run({"x": feed(2)["x"]})


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        np.zeros((2, 4), np.float32),
        np.zeros((2, 3), np.float64),
        np.zeros((2, 3), np.int64),
        pytest.param(
            np.zeros((3, 3), np.float32),
        ),
        pytest.param(
            np.zeros((2, 6), np.float32)[:, ::2],
        ),
        pytest.param(
            np.broadcast_to(np.float32(0), (2, 3)),
        ),
    ],
    ids=["missing", "shape", "float64", "int64", "rows", "strided", "broadcast"],
)
def test_an_out_that_does_not_fit_is_refused(engine: Engine, wrong: np.ndarray | None) -> None:
    out = {"double": np.zeros((2, 5), np.float32)}
    if wrong is not None:
        out["sum"] = wrong
    with pytest.raises(EngineMismatch):
        engine.run(feed(2), out=out)


def test_a_read_only_out_is_refused(engine: Engine) -> None:
    out = {"sum": np.zeros((2, 3), np.float32), "double": np.zeros((2, 5), np.float32)}
    out["sum"].flags.writeable = False
    with pytest.raises(EngineMismatch):
        engine.run(feed(2), out=out)


@pytest.mark.parametrize("open_engine", ENGINES.values(), ids=list(ENGINES))
def test_what_does_not_load_is_refused(
    open_engine: Callable[[Path], Engine], path: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.onnx"
    for content in (b"", b"not a graph", path.read_bytes()[:-40]):
        damaged.write_bytes(content)
        with pytest.raises(BundleError, match=r"damaged\.onnx"):
            open_engine(damaged)
    with pytest.raises(BundleError, match=r"missing\.onnx"):
        open_engine(tmp_path / "missing.onnx")


@pytest.mark.parametrize("open_engine", ENGINES.values(), ids=list(ENGINES))
def test_close_may_be_called_twice(open_engine: Callable[[Path], Engine], path: Path) -> None:
    engine = open_engine(path)
    engine.close()
    engine.close()


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "tpu", ""])
def test_a_device_that_is_not_served_is_refused(path: Path, device: str) -> None:
    with pytest.raises(BackendMissing, match=f"'{device}'.*cpu"):
        OnnxRuntimeEngine(path, device=device)


def test_a_cpu_engine_takes_no_stream(path: Path) -> None:
    with pytest.raises(EngineMismatch, match="no stream"):
        OnnxRuntimeEngine(path).run(feed(1), stream=7)


def test_a_missing_library_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissing, match=r"pip install 'cir-rt\[cpu\]'"):
        OnnxRuntimeEngine(path)
