"""Quantize graphs made by hand, and hold them against FP32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cir_rt.calibration.quantize import SMALLEST, quantize
from cir_rt.calibration.recipe import Recipe
from cir_rt.errors import ConfigError

EVERYTHING = ("Conv", "MatMul", "Gemm")


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    shape: list[int | str],
    out: list[int | str],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    """y = relu(conv(relu(conv(x))) + conv(x))"""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="one", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="two", pads=[1] * 4),
        helper.make_node("Conv", ["x", "w3"], ["d"], name="skip"),
        helper.make_node("Add", ["c", "d"], ["e"], name="add"),
        helper.make_node("Relu", ["e"], ["y"], name="last"),
    ]
    weights = {"w1": weight(8, 3, 3, 3), "w2": weight(8, 8, 3, 3), "w3": weight(8, 3, 1, 1)}
    return save(tmp_path / "residual.onnx", nodes, weights, ["n", 3, 9, 9], ["n", 8, 9, 9])


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """A wide product, a narrow one, one of two activations, and a wide one at the end."""
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["a"], name="wide"),
        helper.make_node("Transpose", ["a"], ["t"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "t"], ["s"], name="scores"),
        helper.make_node("MatMul", ["s", "a"], ["b"], name="context"),
        helper.make_node("MatMul", ["b", "last"], ["c"], name="last"),
        helper.make_node("MatMul", ["c", "narrow"], ["y"], name="narrow"),
    ]
    weights = {
        "wide": weight(32, 24),
        "last": weight(24, SMALLEST),
        "narrow": weight(SMALLEST, SMALLEST - 1),
    }
    return save(tmp_path / "products.onnx", nodes, weights, ["n", 7, 32], ["n", 7, SMALLEST - 1])


def feeds(shape: tuple[int, ...], batches: int = 4) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal(shape, np.float32)} for _ in range(batches)]


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def wrapped(path: Path) -> set[str]:
    """Name the operators whose inputs all come out of DequantizeLinear."""
    graph = onnx.load(path).graph
    dequantized = {o for n in graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    return {n.name for n in graph.node if n.name and set(n.input) and set(n.input) <= dequantized}


def error(graph: Path, out: Path, shape: tuple[int, ...]) -> float:
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    wanted, got = run(graph, x), run(out, x)
    assert got.shape == wanted.shape
    return float(np.sqrt(np.square(got - wanted).mean() / np.square(wanted).mean()))


@pytest.mark.parametrize("signed", [False, True])
def test_convolutions_with_their_followers(residual: Path, tmp_path: Path, signed: bool) -> None:
    recipe = Recipe(operators=EVERYTHING, format="s8s8" if signed else "u8s8")
    out = tmp_path / "out.onnx"
    assert quantize(residual, out, recipe, feeds((4, 3, 9, 9))) == 3
    assert {"one", "two", "skip", "add"} <= wrapped(out)
    assert 0 < error(residual, out, (7, 3, 9, 9)) < 0.06


@pytest.mark.parametrize("signed", [False, True])
def test_activations_take_the_recipes_type(residual: Path, tmp_path: Path, signed: bool) -> None:
    recipe = Recipe(operators=EVERYTHING, format="s8s8" if signed else "u8s8")
    quantize(residual, tmp_path / "out.onnx", recipe, feeds((4, 3, 9, 9)))
    graph = onnx.load(tmp_path / "out.onnx").graph
    constants = {t.name: t for t in graph.initializer}
    steps = [n for n in graph.node if n.op_type == "QuantizeLinear"]
    zeros = [constants[n.input[2]] for n in steps]
    assert {z.data_type for z in zeros} == {TensorProto.INT8 if signed else TensorProto.UINT8}
    if signed:
        assert all(numpy_helper.to_array(z) == 0 for z in zeros)


def test_weights_are_scaled_by_channel(residual: Path, tmp_path: Path) -> None:
    for per_channel, length in ((True, 8), (False, 1)):
        recipe = Recipe(operators=("Conv",), per_channel=per_channel)
        quantize(residual, tmp_path / "out.onnx", recipe, feeds((4, 3, 9, 9)))
        constants = {t.name: t for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
        scale = next(
            t for name, t in constants.items() if name.startswith("w2") and "scale" in name
        )
        assert numpy_helper.to_array(scale).size == length


def test_reduced_range_gives_up_one_bit(residual: Path, tmp_path: Path) -> None:
    for reduced, largest in ((False, 127), (True, 64)):
        recipe = Recipe(operators=("Conv",), reduce_range=reduced)
        quantize(residual, tmp_path / "out.onnx", recipe, feeds((4, 3, 9, 9)))
        stored = [
            numpy_helper.to_array(t).astype(int)
            for t in onnx.load(tmp_path / "out.onnx").graph.initializer
            if t.data_type == TensorProto.INT8 and len(t.dims) == 4
        ]
        assert len(stored) == 3
        assert largest - 1 <= max(np.abs(w).max() for w in stored) <= largest


@pytest.mark.parametrize("signed", [False, True])
def test_small_products_are_left_alone(products: Path, tmp_path: Path, signed: bool) -> None:
    recipe = Recipe(format="s8s8" if signed else "u8s8")
    out = tmp_path / "out.onnx"
    assert quantize(products, out, recipe, feeds((4, 7, 32))) == 2
    found = wrapped(out)
    assert {"wide", "last"} <= found
    assert found.isdisjoint({"narrow", "scores", "context"})
    assert 0 < error(products, out, (3, 7, 32)) < 0.06


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_every_method_stays_close(products: Path, tmp_path: Path, method: str) -> None:
    quantize(products, tmp_path / "out.onnx", Recipe(method=method), feeds((16, 7, 32)))
    assert 0 < error(products, tmp_path / "out.onnx", (3, 7, 32)) < 0.2


def test_a_graph_with_nothing_to_quantize_is_not_written(residual: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert quantize(residual, out, Recipe(operators=("MatMul",)), feeds((4, 3, 9, 9))) == 0
    assert not out.exists()


def test_no_feeds_are_refused(residual: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no calibration inputs\. Give real pictures"):
        quantize(residual, tmp_path / "out.onnx", Recipe(operators=EVERYTHING), [])
    assert not (tmp_path / "out.onnx").exists()


def test_the_graph_itself_stays(residual: Path, tmp_path: Path) -> None:
    before = residual.read_bytes()
    quantize(residual, tmp_path / "out.onnx", Recipe(operators=EVERYTHING), feeds((4, 3, 9, 9)))
    assert residual.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"residual.onnx", "out.onnx"}
