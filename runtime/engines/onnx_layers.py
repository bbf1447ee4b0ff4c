"""What an ONNX file's layers compute in, read without the onnx package.

Only what is needed is read of the format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto,
as https://protobuf.dev/programming-guides/encoding/ lays it out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cir_rt.errors import BundleError

# TensorProto.DataType -> precision; all others hold numbers that nothing is lost of.
_PRECISIONS = {1: "fp32", 2: "int8", 3: "int8", 10: "fp16", 11: "fp64", 16: "bf16"}
_PRECISIONS |= dict.fromkeys((17, 18, 19, 20), "fp8")
_FLOATS = (1, 10, 11, 16)
_INT64, _BOOL = 7, 9
_CONVERSIONS = ("Cast", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_ON_SHAPES = ("Shape", "Size")
_TO_BOOL = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or")


@dataclass(frozen=True, kw_only=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    type: int | None  # of a Cast's or a Constant's result


def layers(path: Path) -> dict[str, dict[str, int]]:
    """Return how many layers of each operator compute in each precision, most frequent first.

    "conversion" stands for casts, quantization and its inverse, "integer" for what works on ids,
    masks and shapes. Raises BundleError for a file that is not ONNX.
    """
    try:
        nodes, types = _graph(memoryview(path.read_bytes()))
    except (OSError, LookupError, ValueError, StopIteration, TypeError) as error:
        raise BundleError(f"{path}: not readable as ONNX ({error}).") from error
    quantized: dict[str, int] = {}  # outputs of DequantizeLinear -> the type they were held in
    found: dict[str, Counter[str]] = {}
    for node in nodes:
        if node.operator != "Constant":
            precision = _precision(node, types, quantized)
            found.setdefault(precision, Counter())[node.operator] += 1
        if node.operator == "DequantizeLinear":
            quantized[node.outputs[0]] = types.get(node.inputs[0], 0)
        for name in node.outputs:
            types[name] = _result(node, types)
    return {name: dict(counts.most_common()) for name, counts in sorted(found.items())}


def _precision(node: _Node, types: Mapping[str, int], quantized: Mapping[str, int]) -> str:
    if node.operator in _CONVERSIONS:
        return "conversion"
    if node.operator in _ON_SHAPES:
        return "integer"
    if node.operator.startswith("QLinear") or "Integer" in node.operator:
        return "int8"
    operands = node.inputs[:2]  # a third is a bias
    if operands and all(name in quantized for name in operands):
        return _PRECISIONS.get(quantized[operands[0]], "integer")
    return _PRECISIONS.get(_result(node, types), "integer")


def _result(node: _Node, types: Mapping[str, int]) -> int:
    """Return the type of a node's output: a float's where any input is one."""
    if node.type is not None:
        return node.type
    if node.operator in _ON_SHAPES:
        return _INT64
    if node.operator in _TO_BOOL:
        return _BOOL
    if node.operator == "QuantizeLinear":
        return types.get(node.inputs[2], 2) if len(node.inputs) > 2 else 2
    known = [types[name] for name in node.inputs if name in types]
    return next((t for t in known if t in _FLOATS), known[0] if known else 0)


def _graph(model: memoryview) -> tuple[list[_Node], dict[str, int]]:
    """Return the nodes, and the element types of inputs and constants."""
    nodes: list[_Node] = []
    types: dict[str, int] = {}
    (graph,) = [value for number, value in _fields(model) if number == 7]
    for number, value in _fields(graph):
        if number == 1:
            nodes.append(_node(value))
        elif number == 5:  # an initializer
            tensor = dict(_fields(value))
            types[_text(tensor[8])] = tensor.get(2, 0)
        elif number == 11:  # an input: its name, and its type inside two layers
            described = dict(_fields(value))
            tensor_type = dict(_fields(dict(_fields(described[2]))[1]))
            types[_text(described[1])] = tensor_type.get(1, 0)
    return nodes, types


def _node(value: memoryview) -> _Node:
    fields = list(_fields(value))
    kind = None
    for attribute in (dict(_fields(v)) for n, v in fields if n == 5):
        name = _text(attribute[1])
        if name == "to":
            kind = attribute.get(3, 0)
        elif name == "value" and 5 in attribute:
            kind = dict(_fields(attribute[5])).get(2, 0)
    return _Node(
        operator=next(_text(v) for n, v in fields if n == 4),
        inputs=tuple(_text(v) for n, v in fields if n == 1),
        outputs=tuple(_text(v) for n, v in fields if n == 2),
        type=kind,
    )


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield a message's fields: number, and an int or the bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        wire = key & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if wire == 2:
            size, place = _varint(message, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if place + size > len(message):
            raise ValueError(f"cut short at byte {place}")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _text(value: memoryview) -> str:
    return bytes(value).decode()
