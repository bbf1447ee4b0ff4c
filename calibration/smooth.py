"""SmoothQuant: outlier channels of activations folded into weights (Xiao et al. 2023)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

SMALLEST = 1e-5  # a channel that is silent, or never weighed, keeps a scale that divides


@dataclass(frozen=True, kw_only=True)
class _Fold:
    """A LayerNormalization and the products that read it, by input channel."""

    norm: onnx.NodeProto
    readers: tuple[onnx.NodeProto, ...]


def smooth(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]], strength: float
) -> onnx.ModelProto:
    """Return the model with easier activations and the same FP32 outputs.

    For every LayerNormalization whose readers are all products with constant weights, channel j
    of the activation X is divided, and row j of each weight W multiplied, by

        s_j = max|X_j| ^ strength / max|W_j| ^ (1 - strength)        (equation 4 of the paper)

    The division goes into the norm's own scale and bias, so that no operator is added.
    """
    model = copy.deepcopy(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    folds = _folds(model, constants)
    largest = _largest(model, [fold.norm.output[0] for fold in folds], feeds)
    for fold, activation in zip(folds, largest, strict=True):
        rows = [_by_input(numpy_helper.to_array(constants[r.input[1]]), r) for r in fold.readers]
        weight = np.maximum(np.max([np.abs(w).max(1) for w in rows], axis=0), SMALLEST)
        scale = np.maximum(activation, SMALLEST) ** strength / weight ** (1 - strength)
        scale = np.maximum(scale, SMALLEST).astype(np.float32)
        for name in fold.norm.input[1:]:  # scale, and bias where it has one
            _replace(model, fold.norm, name, numpy_helper.to_array(constants[name]) / scale)
        for reader, row in zip(fold.readers, rows, strict=True):
            _replace(model, reader, reader.input[1], _by_input(row * scale[:, None], reader))
    _drop_unused(model)
    return model


def _folds(model: onnx.ModelProto, constants: Mapping[str, onnx.TensorProto]) -> list[_Fold]:
    outputs = {output.name for output in model.graph.output}
    folds = []
    for node in model.graph.node:
        if node.op_type != "LayerNormalization" or node.output[0] in outputs:
            continue
        readers = tuple(n for n in model.graph.node if node.output[0] in n.input)
        if readers and all(_weighs(reader, node.output[0], constants) for reader in readers):
            folds.append(_Fold(norm=node, readers=readers))
    return folds


def _weighs(
    node: onnx.NodeProto, activation: str, constants: Mapping[str, onnx.TensorProto]
) -> bool:
    """Tell whether the node is activation times a constant matrix."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[0] != activation:
        return False
    settings = {a.name: a.i for a in node.attribute}
    weight = constants.get(node.input[1])
    return weight is not None and len(weight.dims) == 2 and not settings.get("transA")


def _by_input(weight: np.ndarray, node: onnx.NodeProto) -> np.ndarray:
    """Turn a product's weight between its own layout and (inputs, outputs)."""
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    return weight.T if turned else weight


def _largest(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Mapping[str, np.ndarray]]
) -> list[np.ndarray]:
    """Return max|X_j| over all feeds for each named activation: (channels,) float32 each."""
    probe = copy.deepcopy(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    largest: list[np.ndarray] = []
    for feed in feeds if names else ():
        found = [np.abs(x).max(tuple(range(x.ndim - 1))) for x in session.run(names, dict(feed))]
        largest = list(map(np.maximum, largest, found)) if largest else found
    return largest


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, name: str, values: np.ndarray) -> None:
    """Give one node a constant of its own: others may share the old one."""
    own = f"{name}.smooth.{node.output[0]}"
    values = np.ascontiguousarray(values, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, own))
    node.input[list(node.input).index(name)] = own


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
