"""What both halves of the played TensorRT share: how a plan begins, types, and small values."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import onnx

MAGIC = b"fake plan "
TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.BOOL: "BOOL",
}


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return a tensor's shape as TensorRT tells it: -1 where it is free."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity
    INTERNAL_ERROR, ERROR = Severity.INTERNAL_ERROR, Severity.ERROR
    WARNING, INFO, VERBOSE = Severity.WARNING, Severity.INFO, Severity.VERBOSE

    def __init__(self) -> None:
        self._made = True


class IProgressMonitor:
    def __init__(self) -> None:
        self._made = True


class Dims:
    def __init__(self, shape: Sequence[int] = ()) -> None:
        self._shape = tuple(shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: int) -> int:
        return self._shape[index]


class IHostMemory:
    nbytes = property(lambda self: len(self._content))

    def __bytes__(self) -> bytes:
        return self._content
