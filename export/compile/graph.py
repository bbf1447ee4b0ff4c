"""What the compiler reads off an ONNX graph before TensorRT does."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto

from cir_rt.bundle import sha256
from cir_rt.engines.plan import Profile
from cir_rt.engines.protocol import TensorSpec
from cir_rt.errors import CompileError, UsageError

_FLOAT8 = (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)


class Graph:
    """A graph's file: its inputs, its outputs, and the hash of it all."""

    def __init__(self, path: Path) -> None:
        """Read everything but the weights. Raises CompileError."""
        self.path = path
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # the library's errors share no base class
            raise CompileError(f"{path}: not an ONNX graph ({error}).") from error
        weights = {tensor.name for tensor in model.graph.initializer}
        given = [value for value in model.graph.input if value.name not in weights]
        self.inputs = tuple(_spec(path, value) for value in given)
        self.outputs = tuple(_spec(path, value) for value in model.graph.output)
        self._external = sorted(
            {
                entry.value
                for tensor in model.graph.initializer
                for entry in tensor.external_data
                if entry.key == "location"
            }
        )

    def sha256(self) -> str:
        """Hash the graph with the weight files that it points into."""
        digest = hashlib.sha256()
        for name in (self.path.name, *self._external):
            digest.update(sha256(self.path.parent / name).encode())
        return digest.hexdigest()

    def served(self, capabilities: Sequence[str]) -> tuple[str, ...]:
        """Return those of the GPUs that have the number formats of the graph.

        FP8 is there from sm_89 on; TensorRT-RTX 1.7 has no FP32 products on sm_75.
        """
        try:
            graph = onnx.shape_inference.infer_shapes(
                onnx.load(self.path, load_external_data=False)
            ).graph
        except onnx.shape_inference.InferenceError as error:
            raise CompileError(f"{self.path}: not a sound graph ({error}).") from error
        values = (*graph.value_info, *graph.input, *graph.output)
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
        lowest = 75
        if any(types.get(node.input[0]) == TensorProto.FLOAT for node in products):
            lowest = 80
        if any(type_ in _FLOAT8 for type_ in types.values()):
            lowest = 89
        return tuple(name for name in capabilities if int(name.removeprefix("sm_")) >= lowest)

    def shapes(self, profile: Profile, spec: TensorSpec) -> tuple[list[int], list[int], list[int]]:
        """Return an input's smallest, tuned and largest shape in a profile."""
        free = [profile[d] if isinstance(d, str) else None for d in spec.shape]
        sizes = list(zip(spec.shape, free, strict=True))
        low = [r.minimum if r else d for d, r in sizes]
        tuned = [r.optimum if r else d for d, r in sizes]
        high = [r.maximum if r else d for d, r in sizes]
        return low, tuned, high

    def check_profiles(self, profiles: Sequence[Profile]) -> None:
        """Raise UsageError where a profile lacks a free dimension, or has one the graph has not."""
        free = {d for spec in self.inputs for d in spec.shape if isinstance(d, str)}
        if free and not profiles:
            raise UsageError(
                f"{self.path}: {', '.join(sorted(free))} are free. Expected a range for each."
            )
        for profile in profiles:
            if missing := sorted(free - set(profile)):
                raise UsageError(f"{self.path}: no range is given for {', '.join(missing)}.")
            for name in sorted(set(profile) - free):
                near = difflib.get_close_matches(name, free, n=1) or sorted(free)
                raise UsageError(
                    f"{self.path}: has no free dimension '{name}'. Expected: {', '.join(near)}."
                )


def _spec(path: Path, value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape: list[int | str] = []
    for k, dim in enumerate(tensor.shape.dim):
        if not dim.HasField("dim_value") and not dim.dim_param:
            raise CompileError(
                f"{path}: dimension {k} of {value.name} has neither size nor name. Export it anew."
            )
        shape.append(dim.dim_value if dim.HasField("dim_value") else dim.dim_param)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(name=value.name, dtype=dtype, shape=tuple(shape))
