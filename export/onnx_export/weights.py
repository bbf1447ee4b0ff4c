"""The weights of graphs, as references into a safetensors file."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

_DTYPES = {"F32": onnx.TensorProto.FLOAT, "F16": onnx.TensorProto.FLOAT16}


class _Stored(NamedTuple):
    """A tensor of the safetensors file, at its offset in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def share_weights(model: onnx.ModelProto, prefix: str, weights: Path) -> None:
    """Replace initializers by references into the file, cast and turned as needed.

    An initializer is found again by `prefix` and its own name or, transposed, by its numbers. The
    graph must come to lie beside the file.
    """
    stored = _entries(weights)
    turned = {
        (tuple(entry.shape[::-1]), _digest(_read(weights, entry).T)): key
        for key, entry in stored.items()
        if key.startswith(prefix) and len(entry.shape) == 2
    }
    kept, nodes = [], []
    external: dict[str, onnx.TensorProto] = {}
    for tensor in model.graph.initializer:
        key, transpose = prefix + tensor.name, False
        if key not in stored:
            key = turned.get((tuple(tensor.dims), _digest(numpy_helper.to_array(tensor))), "")
            transpose = True
        if not key:
            kept.append(tensor)
            continue
        external.setdefault(key, _reference(key, stored[key], weights.name))
        nodes += _restored(key, stored[key].dtype, tensor.name, transpose)
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *external.values()])
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def _entries(weights: Path) -> dict[str, _Stored]:
    """Read a safetensors header: 8 bytes of length, then JSON, then the data."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: Mapping = json.loads(file.read(length))
    start = 8 + length
    return {
        key: _Stored(
            dtype=e["dtype"],
            shape=tuple(e["shape"]),
            offset=start + e["data_offsets"][0],
            length=e["data_offsets"][1] - e["data_offsets"][0],
        )
        for key, e in header.items()
        if key != "__metadata__"
    }


def _read(weights: Path, entry: _Stored) -> np.ndarray:
    kind = np.float16 if entry.dtype == "F16" else np.float32
    count = entry.length // np.dtype(kind).itemsize
    data = np.fromfile(weights, kind, count, offset=entry.offset)
    return data.reshape(entry.shape).astype(np.float32)


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array, np.float32).tobytes()).digest()


def _reference(key: str, entry: _Stored, location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(
        name=f"{key}.stored",
        data_type=_DTYPES[entry.dtype],
        dims=entry.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    facts = {"location": location, "offset": entry.offset, "length": entry.length}
    for name, value in facts.items():
        tensor.external_data.add(key=name, value=str(value))
    return tensor


def _restored(key: str, dtype: str, name: str, transpose: bool) -> list[onnx.NodeProto]:
    """Return the nodes that turn a stored tensor into the initializer that it stands for."""
    cast_to = f"{name}.cast" if transpose else name
    nodes = [
        helper.make_node(
            "Cast" if dtype == "F16" else "Identity",
            [f"{key}.stored"],
            [cast_to],
            **({"to": onnx.TensorProto.FLOAT} if dtype == "F16" else {}),
        )
    ]
    if transpose:
        nodes.append(helper.make_node("Transpose", [cast_to], [name], perm=[1, 0]))
    return nodes
