"""Whether a quantized graph is one that TensorRT takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

# Its parser does not read these: integers computed outside Q/DQ, and scales made at run time.
REFUSED = ("MatMulInteger", "ConvInteger", "DynamicQuantizeLinear")
TYPES = (TensorProto.INT8, TensorProto.FLOAT8E4M3FN)
LARGEST_K = 3840  # of TopK


def unfit_for_tensorrt(model: onnx.ModelProto) -> list[str]:
    """Return what TensorRT would refuse, by node; empty where the graph is fit.

    Q/DQ must be symmetric with zero points 0, in INT8 or E4M3, with constant scales; integer
    operators and other domains than ONNX's own are not read; TopK stops at 3840.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return [
        f"{node.op_type} {node.name or node.output[0]}: {fault}"
        for node in model.graph.node
        for fault in _faults(node, constants)
    ]


def _faults(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        yield f"domain {node.domain} is not read"
    if node.op_type in REFUSED or node.op_type.startswith("QLinear"):
        yield "operator is not read, expected QuantizeLinear and DequantizeLinear"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        yield from _scale_faults(node, constants)
    if node.op_type == "TopK" and node.input[1] in constants:
        k = int(numpy_helper.to_array(constants[node.input[1]]).max())
        if k > LARGEST_K:
            yield f"K is {k}, the largest is {LARGEST_K}"


def _scale_faults(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> Iterator[str]:
    if node.input[1] not in constants:
        yield "scale is not constant"
    if len(node.input) < 3:
        yield "no zero point, so the type is not signed"
        return
    zero = constants.get(node.input[2])
    if zero is None:
        yield "zero point is not constant"
    elif zero.data_type not in TYPES:
        yield f"type {TensorProto.DataType.Name(zero.data_type)}, expected INT8 or FLOAT8E4M3FN"
    elif np.any(numpy_helper.to_array(zero).astype(np.float32) != 0):
        yield "zero point is not 0"
