"""What layers compute in, held against the onnx package."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cir_rt.engines.onnx_layers import layers
from cir_rt.errors import BundleError
from cir_rt.export import pretrained

FLOAT, HALF, INT8, WHOLE = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT8,
    TensorProto.INT64,
)


def write(path: Path, nodes: list[onnx.NodeProto], **constants: np.ndarray) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info("x", FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("ids", WHOLE, ["batch", 2]),
        ],
        [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize("role", ["image", "text"])
def test_every_layer_of_a_trained_tower_is_counted(role: str) -> None:
    path = Path(next(iter(pretrained.__path__))) / f"{role}.onnx"
    found = layers(path)
    nodes = onnx.load(path, load_external_data=False).graph.node
    expected = Counter(node.op_type for node in nodes if node.op_type != "Constant")
    total: Counter[str] = Counter()
    for counts in found.values():
        total.update(counts)
    assert total == expected
    assert set(found["fp32"]) >= ({"Conv", "Gemm"} if role == "image" else {"MatMul", "Softmax"})
    assert set(found["conversion"]) == {"Cast"}


def test_precisions_are_told_apart(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        node("DequantizeLinear", ["wq", "scale", "zero"], ["wd"]),
        node("Gemm", ["xd", "wd", "bias"], ["a"]),
        node("MatMul", ["a", "wd"], ["b"]),  # only the weights were quantized: computed in FP32
        node("Cast", ["b"], ["h"], to=HALF),
        node("MatMul", ["h", "wh"], ["c"]),
        node("Softmax", ["c"], ["d"]),
        node("Cast", ["d"], ["e"], to=FLOAT),
        node("Gather", ["table", "ids"], ["f"]),
        node("Equal", ["ids", "ids"], ["same"]),
        node("Not", ["same"], ["other"]),
        node("Shape", ["xd"], ["size"]),
        node("Where", ["other", "e", "e"], ["g"]),
        node("MatMulInteger", ["xq", "wq"], ["i"]),
        node("Add", ["g", "e"], ["y"]),
    ]
    constants = {
        "scale": np.float32([0.1])[0:1].reshape(()),
        "zero": np.int8(0).reshape(()),
        "wq": np.ones((4, 4), np.int8),
        "bias": np.ones(4, np.float32),
        "wh": np.ones((4, 4), np.float16),
        "table": np.ones((9, 4), np.float32),
    }
    assert layers(write(tmp_path / "graph.onnx", nodes, **constants)) == {
        "conversion": {"DequantizeLinear": 2, "Cast": 2, "QuantizeLinear": 1},
        "fp16": {"MatMul": 1, "Softmax": 1},
        "fp32": {"MatMul": 1, "Gather": 1, "Where": 1, "Add": 1},
        "int8": {"Gemm": 1, "MatMulInteger": 1},
        "integer": {"Equal": 1, "Not": 1, "Shape": 1},
    }


def test_eight_bit_floats_are_told_from_integers(tmp_path: Path) -> None:
    eight = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0.0])
    path = write(
        tmp_path / "graph.onnx",
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
            helper.make_node("MatMul", ["xd", "xd"], ["y"]),
        ],
        scale=np.array(0.1, np.float32),
    )
    model = onnx.load(path)
    model.graph.initializer.append(eight)
    path.write_bytes(model.SerializeToString())
    assert layers(path)["fp8"] == {"MatMul": 1}


def test_what_is_no_onnx_is_refused(tmp_path: Path) -> None:
    whole = (Path(next(iter(pretrained.__path__))) / "text.onnx").read_bytes()
    for k, content in enumerate([b"", b"not a graph", whole[: len(whole) // 2], b"\xff" * 40]):
        path = tmp_path / f"{k}.onnx"
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"not readable as ONNX"):
            layers(path)
    with pytest.raises(BundleError, match=r"missing\.onnx"):
        layers(tmp_path / "missing.onnx")
