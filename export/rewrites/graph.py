"""An ONNX graph as it is written, operator by operator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 8  # what opset 18 came with
LARGEST = 2**31 - 2**26  # a file of this size is near what protobuf holds
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators

FLOAT, INT8, INT64 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT64


class Graph:
    """Tensors go by their names. Where an operator takes one, an array may stand as well."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: dict[str, onnx.ValueInfoProto] = {}
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare an input; a dimension is a number or a free one's name."""
        self._inputs[name] = helper.make_tensor_value_info(name, dtype, shape)
        return name

    def output(self, name: str, tensor: str, dtype: int, shape: Sequence[int | str]) -> None:
        """Declare a tensor as the output `name`."""
        self._add("Identity", [tensor], [name])
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def __call__(self, operator: str, *inputs: Any, domain: str = "", **attributes: Any) -> str:
        """Add a node; return its output. Numbers and arrays among the inputs become constants."""
        (out,) = self.several(1, operator, *inputs, domain=domain, **attributes)
        return out

    def several(
        self, count: int, operator: str, *inputs: Any, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with so many outputs; return them."""
        node = len(self._nodes)
        outputs = [f"{operator}_{node}" + (f"_{k}" if k else "") for k in range(count)]
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self._add(operator, names, outputs, domain=domain, **attributes)
        return outputs

    def constant(self, value: Any) -> str:
        """Return a constant's name, one for equal ones; numbers without a dtype are float32."""
        array = np.asarray(value, None if isinstance(value, (np.ndarray, np.generic)) else "f4")
        data = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, hashlib.sha256(data.data).digest())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = numpy_helper.from_array(array, name)
        return str(self._constants[key].name)

    def reshape(self, tensor: str, *sizes: int) -> str:
        """Give a tensor another shape: 0 keeps the size that stands there, one size may be -1."""
        return self("Reshape", tensor, np.asarray(sizes))

    def transpose(self, tensor: str, *order: int) -> str:
        """Put a tensor's axes in another order."""
        return self("Transpose", tensor, perm=order)

    def write(self, path: Path) -> None:
        """Write the graph with its weights inside, or beside it where they are too large."""
        graph = helper.make_graph(
            self._nodes,
            path.stem,
            list(self._inputs.values()),
            self._outputs,
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain for node in self._nodes):
            opsets.append(helper.make_opsetid(MICROSOFT, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        size = sum(len(tensor.raw_data) for tensor in self._constants.values())
        beside = f"{path.stem}.weights"
        (path.parent / beside).unlink(missing_ok=True)  # onnx would append to it
        onnx.save(model, path, save_as_external_data=size > LARGEST, location=beside)

    def _add(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        node = helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes)
        self._nodes.append(node)
