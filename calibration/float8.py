"""FP8 (E4M3) Q/DQ, made of symmetric INT8 Q/DQ: the same edges, other numbers."""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21  # QuantizeLinear knows FP8 from 19, Transpose from 21
LARGEST = 448.0  # of E4M3
_STEPS = 127.0  # of symmetric INT8
_SUFFIX = "_quantized"  # of a weight, by onnxruntime's quantizer


def to_float8(model: onnx.ModelProto, exact: onnx.ModelProto) -> onnx.ModelProto:
    """Return symmetric INT8 Q/DQ as E4M3 Q/DQ with the same ranges.

    `exact` is the FP32 graph, whose weights are rounded anew: scale = max|w| / 448. onnxruntime's
    own FP8 takes its scales from the spread of values, not from their range, and clips outliers.
    """
    model = copy.deepcopy(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {tensor.name: tensor for tensor in exact.graph.initializer}
    zeros: set[str] = set()
    scales: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scales.add(node.input[1])
        zeros.add(node.input[2])
        if node.input[0] in constants:
            stored = constants[node.input[0]]
            axis = next((a.i for a in node.attribute if a.name == "axis"), None)
            weight = numpy_helper.to_array(weights[stored.name.removesuffix(_SUFFIX)])
            scale = _scale(constants[node.input[1]])
            stored.CopyFrom(_rounded(weight, scale, axis, stored.name))
    for name in scales:
        values = _scale(constants[name]).astype(np.float32)
        constants[name].CopyFrom(numpy_helper.from_array(values, name))
    for name in zeros:
        constants[name].CopyFrom(_zeros(constants[name]))
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, OPSET)
    return model


def _scale(int8: TensorProto) -> np.ndarray:
    """Return the FP8 scale of the range that an INT8 scale covers."""
    return numpy_helper.to_array(int8).astype(np.float64) * _STEPS / LARGEST


def _rounded(weight: np.ndarray, scale: np.ndarray, axis: int | None, name: str) -> TensorProto:
    if axis is not None and scale.ndim:
        shape = [1] * weight.ndim
        shape[axis] = -1
        scale = scale.reshape(shape)
    values = np.clip(weight / scale, -LARGEST, LARGEST).astype(np.float32)
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, weight.shape, values.ravel().tolist())


def _zeros(old: TensorProto) -> TensorProto:
    count = int(np.prod(tuple(old.dims))) if old.dims else 1
    return helper.make_tensor(old.name, TensorProto.FLOAT8E4M3FN, tuple(old.dims), [0.0] * count)
