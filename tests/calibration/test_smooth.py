"""Fold outlier channels into weights: FP32 stays, INT8 comes closer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cir_rt.calibration.quantize import quantize
from cir_rt.calibration.recipe import Recipe
from cir_rt.calibration.smooth import smooth

WIDTH, OUT = 32, 24
OUTLIERS = (3, 19)


def tower(*, turned: bool = False) -> onnx.ModelProto:
    """y = norm(x) W1 + norm(x) W2, where two channels of the norm are 100 times the others."""
    rng = np.random.default_rng(0)
    scale = np.ones(WIDTH, np.float32)
    scale[list(OUTLIERS)] = 100
    weights = {
        "scale": scale,
        "bias": rng.standard_normal(WIDTH).astype(np.float32),
        "w1": rng.standard_normal((WIDTH, OUT)).astype(np.float32),
        "w2": rng.standard_normal((WIDTH, OUT)).astype(np.float32),
        "c": rng.standard_normal(OUT).astype(np.float32),
    }
    weights["w1"][list(OUTLIERS)] /= 100  # as networks learn to weigh what is large
    weights["w2"][list(OUTLIERS)] /= 100
    if turned:
        weights["w2"] = np.ascontiguousarray(weights["w2"].T)
    node = helper.make_node
    nodes = [
        node("LayerNormalization", ["x", "scale", "bias"], ["n"], name="norm"),
        node("MatMul", ["n", "w1"], ["a"], name="one"),
        node("Gemm", ["n", "w2", "c"], ["b"], name="two", transB=int(turned)),
        node("Add", ["a", "b"], ["y"], name="sum"),
    ]
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", OUT])],
        [numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def inputs(seed: int, n: int = 111) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, WIDTH), np.float32)


def run(model: onnx.ModelProto | Path, x: np.ndarray) -> np.ndarray:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_fp32_is_unchanged(turned: bool, strength: float) -> None:
    model, x = tower(turned=turned), inputs(1)
    folded = smooth(model, [{"x": inputs(0)}], strength)
    wanted, got = run(model, x), run(folded, x)
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert [n.op_type for n in folded.graph.node] == [n.op_type for n in model.graph.node]


def test_the_scale_is_the_papers() -> None:
    model, x = tower(), inputs(0)
    old = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    probe = tower()
    probe.graph.output.append(onnx.ValueInfoProto(name="n"))
    source = probe.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    activation = np.abs(session.run(["n"], {"x": x})[0]).max(0)
    weight = np.maximum(np.abs(old["w1"]).max(1), np.abs(old["w2"]).max(1))
    wanted = activation**0.7 / weight**0.3
    folded = smooth(model, [{"x": x[:50]}, {"x": x[50:]}], 0.7)
    new = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    norm, one, *_ = folded.graph.node
    assert np.allclose(new[norm.input[1]], old["scale"] / wanted, rtol=1e-4)
    assert np.allclose(new[norm.input[2]], old["bias"] / wanted, rtol=1e-4)
    assert np.allclose(new[one.input[1]], old["w1"] * wanted[:, None], rtol=1e-4)


@pytest.mark.parametrize("layout", ["u8s8", "s8s8"])
def test_int8_comes_closer(tmp_path: Path, layout: str) -> None:
    onnx.save(tower(), tmp_path / "fp32.onnx")
    x = inputs(1)
    wanted = run(tmp_path / "fp32.onnx", x)
    worst = {}
    for strength in (None, 0.5):
        recipe = Recipe(format=layout, smooth=strength)
        out = tmp_path / f"{strength}.onnx"
        assert quantize(tmp_path / "fp32.onnx", out, recipe, [{"x": inputs(0)}]) == 2
        got = run(out, x)
        norms = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
        worst[strength] = 1 - float(((got * wanted).sum(1) / norms).min())
    assert worst[0.5] < 0.002
    assert worst[None] > 5 * worst[0.5]


def test_a_norm_that_something_else_reads_stays() -> None:
    model = tower()
    model.graph.node.append(helper.make_node("Relu", ["n"], ["z"], name="also"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    folded = smooth(model, [{"x": inputs(0)}], 0.5)
    assert folded.SerializeToString() == model.SerializeToString()
