"""Turn graphs to FP16 and FP8, and hold them against FP32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cir_rt.calibration.fitness import unfit_for_tensorrt
from cir_rt.calibration.half import to_half
from cir_rt.calibration.quantize import quantize
from cir_rt.calibration.recipe import Recipe, tensorrt_candidates
from cir_rt.errors import ConfigError

WIDTH = 32


def tower(size: float = 1.0) -> onnx.ModelProto:
    """A norm, two products with a mask between them, and a vector of unit length."""
    rng = np.random.default_rng(0)
    weights = {
        "scale": np.ones(WIDTH, np.float32),
        "w1": rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) * size,
        "mask": np.full(WIDTH, -3.4e38, np.float32) * (np.arange(WIDTH) % 5 == 0),
        "w2": rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) * size,
        "axes": np.array([1], np.int64),
        "tiny": np.array(1e-12, np.float32),
    }
    node = helper.make_node
    nodes = [
        node("LayerNormalization", ["x", "scale"], ["n"], name="norm"),
        node("MatMul", ["n", "w1"], ["a"], name="one"),
        node("Add", ["a", "mask"], ["b"], name="add"),
        node("Softmax", ["b"], ["c"], name="softmax"),
        node("Mul", ["c", "n"], ["d"], name="mul"),
        node("MatMul", ["d", "w2"], ["e"], name="two"),
        node("ReduceL2", ["e", "axes"], ["l"], name="length", keepdims=1),
        node("Clip", ["l", "tiny"], ["m"], name="clip"),
        node("Div", ["e", "m"], ["vector"], name="unit"),
    ]
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["n", WIDTH])],
        [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def inputs(n: int = 19, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, WIDTH), np.float32)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Return every tensor's element type, as ONNX infers it."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.output]}
    return found | {t.name: t.data_type for t in inferred.initializer}


def test_half_stays_close_and_well_formed() -> None:
    model = tower()
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    got, wanted = run(half, inputs()), run(model, inputs())
    assert got.dtype == np.float32
    assert (got * wanted).sum(1).min() > 0.9999
    assert np.abs(np.linalg.norm(got, axis=1) - 1).max() < 1e-5


def test_what_loses_range_stays_in_fp32() -> None:
    half = to_half(tower())
    kinds = types(half)
    by_name = {node.name: node for node in half.graph.node}
    for name in ("norm", "length", "clip", "unit"):
        assert kinds[by_name[name].output[0]] == TensorProto.FLOAT, name
    for name in ("one", "add", "softmax", "mul", "two"):
        assert kinds[by_name[name].output[0]] == TensorProto.FLOAT16, name


def test_short_vectors_keep_their_length() -> None:
    """In FP16 the sum of these squares is 0, and so is the quotient's floor."""
    model = tower(size=1e-3)
    assert np.abs(np.linalg.norm(run(to_half(model), inputs()), axis=1) - 1).max() < 1e-5


def test_nodes_are_kept_by_name() -> None:
    half = to_half(tower(), ["one", "add", "softmax"])
    kinds = types(half)
    by_name = {node.name: node for node in half.graph.node}
    assert kinds[by_name["softmax"].output[0]] == TensorProto.FLOAT
    assert kinds[by_name["two"].output[0]] == TensorProto.FLOAT16
    assert (run(half, inputs()) * run(tower(), inputs())).sum(1).min() > 0.9999


def test_a_tensor_is_cast_once() -> None:
    names = [node.name for node in to_half(tower()).graph.node]
    assert len(names) == len(set(names))
    assert names.count("n.half.cast") == 1  # for the product and for the Mul


def test_a_graph_that_ends_in_a_product_gives_fp32() -> None:
    model = tower()
    del model.graph.node[6:]
    model.graph.output[0].name = "e"
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    assert run(half, inputs()).dtype == np.float32


def test_branches_are_refused() -> None:
    model = tower()
    branch = helper.make_graph([], "branch", [], [])
    model.graph.node.append(
        helper.make_node("If", ["x"], ["y"], name="fork", then_branch=branch, else_branch=branch)
    )
    with pytest.raises(ConfigError, match="If fork: a graph with branches"):
        to_half(model)


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_recipes_for_tensorrt_give_graphs_that_it_takes(tmp_path: Path, precision: str) -> None:
    exact = tower(size=0.3)
    onnx.save(exact, tmp_path / "fp32.onnx")
    (recipe,) = tensorrt_candidates(precision)
    feeds = [{"x": inputs(64, seed=0)}]
    assert quantize(tmp_path / "fp32.onnx", tmp_path / "out.onnx", recipe, feeds) == 2
    model = onnx.load(tmp_path / "out.onnx")
    assert unfit_for_tensorrt(model) == []
    agreement = (run(model, inputs()) * run(exact, inputs())).sum(1).min()
    assert agreement > {"fp16": 0.9999, "int8": 0.99, "fp8": 0.98}[precision]
    assert agreement < 1
    steps = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert bool(steps) == (precision != "fp16")
    onnx.checker.check_model(model, full_check=True)  # each node behind what it reads
    scaled = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    casts = [n for n in model.graph.node if n.op_type == "Cast" and n.input[0] in scaled]
    assert not casts  # a cast between would keep the product from being fused


def test_fp8_covers_the_range_and_rounds_weights_from_fp32(tmp_path: Path) -> None:
    onnx.save(tower(), tmp_path / "fp32.onnx")
    feeds = [{"x": inputs(64, seed=0)}]
    recipe = Recipe(format="fp8", bias=False)
    quantize(tmp_path / "fp32.onnx", tmp_path / "out.onnx", recipe, feeds)
    graph = onnx.load(tmp_path / "out.onnx").graph
    constants = {t.name: t for t in graph.initializer}
    weight = numpy_helper.to_array(constants["w1_quantized"]).astype(np.float32)
    scale = numpy_helper.to_array(constants["w1_scale"])
    exact = {t.name: numpy_helper.to_array(t) for t in tower().graph.initializer}["w1"]
    assert np.abs(weight).max(0) == pytest.approx(448)  # by channel
    assert np.abs(weight * scale - exact).max() <= np.abs(exact).max() / 16  # 3 bits of mantissa


def test_what_tensorrt_refuses_is_named(tmp_path: Path) -> None:
    onnx.save(tower(), tmp_path / "fp32.onnx")
    quantize(tmp_path / "fp32.onnx", tmp_path / "u8.onnx", Recipe(), [{"x": inputs(64, seed=0)}])
    assert any(
        "type UINT8" in fault for fault in unfit_for_tensorrt(onnx.load(tmp_path / "u8.onnx"))
    )
    model = tower()
    model.graph.initializer.append(numpy_helper.from_array(np.array([4000]), "k"))
    model.graph.node.extend(
        [
            helper.make_node("MatMulInteger", ["p", "q"], ["r"], name="integers"),
            helper.make_node("QLinearMatMul", ["p"] * 8, ["s"], name="fused"),
            helper.make_node("TopK", ["x", "k"], ["t", "i"], name="many"),
            helper.make_node("Gelu", ["x"], ["g"], name="own", domain="com.microsoft"),
            helper.make_node("QuantizeLinear", ["x", "moving"], ["z"], name="loose"),
        ]
    )
    faults = unfit_for_tensorrt(model)
    for wanted in (
        "MatMulInteger integers: operator is not read",
        "QLinearMatMul fused: operator is not read",
        "TopK many: K is 4000, the largest is 3840",
        "Gelu own: domain com.microsoft is not read",
        "QuantizeLinear loose: scale is not constant",
        "QuantizeLinear loose: no zero point",
    ):
        assert any(fault.startswith(wanted) for fault in faults), wanted


def test_a_zero_point_that_is_not_zero_is_found(tmp_path: Path) -> None:
    onnx.save(tower(), tmp_path / "fp32.onnx")
    (recipe,) = tensorrt_candidates("int8")
    out = tmp_path / "out.onnx"
    quantize(tmp_path / "fp32.onnx", out, recipe, [{"x": inputs(64, seed=0)}])
    model = onnx.load(out)
    step = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    zero = next(t for t in model.graph.initializer if t.name == step.input[2])
    zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), zero.name))
    assert any("zero point is not 0" in fault for fault in unfit_for_tensorrt(model))
