"""FP16 by casts in the graph, with what must not lose range left in FP32."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cir_rt.errors import ConfigError

# Sums of squares leave the range of FP16: F.normalize's 1e-12 becomes 0. Range and CumSum count
# past 2048, where FP16 has no odd numbers; Resize takes its scales in FP32 alone.
FULL_OPERATORS = (
    *("LayerNormalization", "ReduceL2", "ReduceSumSquare", "Pow"),
    *("Range", "CumSum", "Resize", "Max", "Min"),
)
PRODUCTS = ("MatMul", "Gemm", "Conv")
OPSET = 19  # the first whose QuantizeLinear takes FP16
_LARGEST = float(np.finfo(np.float16).max)


def to_half(model: onnx.ModelProto, keep: Sequence[str] = ()) -> onnx.ModelProto:
    """Return the model in FP16; inputs and outputs stay FP32.

    LayerNormalization, everything behind the last product (the L2 normalisation of the output)
    and the nodes named in `keep` stay in FP32. onnxruntime's own converter rounds to FP16 between
    two such nodes as well, which is what they are kept for. Raises ConfigError for a graph with
    branches or loops.
    """
    model = onnx.shape_inference.infer_shapes(copy.deepcopy(model))
    for node in model.graph.node:
        if any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            raise ConfigError(f"{node.op_type} {node.name}: a graph with branches has no FP16 form")
    full = {node.output[0] for node in model.graph.node if node.op_type in FULL_OPERATORS}
    full |= {node.output[0] for node in model.graph.node if node.name in keep}
    full |= _tail(model)
    graph = _Casts(model)
    for node in list(model.graph.node):
        graph.add(node, half=node.output[0] not in full)
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, OPSET)
    graph.finish()
    return model


class _Casts:
    """Rebuilds a graph node by node; a float tensor is cast once for all readers that want it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._nodes: list[onnx.NodeProto] = []
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._floats = _float_tensors(model)
        self._halves: set[str] = set()  # tensors that their producer gives in FP16
        self._made: dict[str, str] = {}  # a tensor's name in the other precision

    def add(self, node: onnx.NodeProto, *, half: bool) -> None:
        """Take over a node, with casts before the inputs that come in another precision."""
        for k, name in enumerate(node.input):
            if name in self._floats and (name in self._halves) != half:
                node.input[k] = self._cast(name, half=half)
        if half:
            _halve_attributes(node)
            self._halves.update(name for name in node.output if name in self._floats)
        self._nodes.append(node)

    def finish(self) -> None:
        """Put the nodes and constants into the graph; outputs come in FP32."""
        for output in self._graph.output:
            if output.name in self._halves:
                name = f"{output.name}.half"
                for node in self._nodes:
                    for names in (node.input, node.output):
                        names[:] = [name if n == output.name else n for n in names]
                self._nodes.append(_cast_node(name, output.name, TensorProto.FLOAT))
        used = {name for node in self._nodes for name in node.input}
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(t for t in self._constants.values() if t.name in used)

    def _cast(self, name: str, *, half: bool) -> str:
        if name not in self._made:
            other = self._made[name] = f"{name}.{'half' if half else 'full'}"
            if name in self._constants:
                self._constants[other] = _halved(self._constants[name], other)
            else:
                kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                self._nodes.append(_cast_node(name, other, kind))
        return self._made[name]


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Name every FP32 tensor of the graph."""
    graph = model.graph
    named = [*graph.input, *graph.output, *graph.value_info]
    names = {v.name for v in named if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}


def _cast_node(name: str, other: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [other], name=f"{other}.cast", to=kind)


def _halve_attributes(node: onnx.NodeProto) -> None:
    """Let a node that names FP32 in its attributes name FP16."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_halved(attribute.t, attribute.t.name))


def _halved(tensor: TensorProto, name: str) -> TensorProto:
    """Round to FP16; what is larger, as a mask's -3.4e38, becomes the largest that there is."""
    values = np.clip(numpy_helper.to_array(tensor), -_LARGEST, _LARGEST)
    return numpy_helper.from_array(values.astype(np.float16), name)


def _tail(model: onnx.ModelProto) -> set[str]:
    """Return the nodes between the last product and the outputs, by their first output."""
    producers: Mapping[str, onnx.NodeProto] = {
        output: node for node in model.graph.node for output in node.output
    }
    reached = [output.name for output in model.graph.output]
    found: set[str] = set()
    while reached:
        node = producers.get(reached.pop())
        if node is None or node.op_type in PRODUCTS or node.output[0] in found:
            continue
        found.add(node.output[0])
        reached += node.input
    return found
