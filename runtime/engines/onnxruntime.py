"""ONNX Runtime behind the engine protocol."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cir_rt.engines.protocol import TensorSpec
from cir_rt.errors import BackendMissing, BundleError, EngineMismatch

PROVIDERS = {"cpu": "CPUExecutionProvider"}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(bool)": "bool",
}


class OnnxRuntimeEngine:
    """One ONNX graph in one session."""

    def __init__(
        self, path: str | Path, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        """Load the graph; `threads` inside an operator, all cores unless said.

        Raises BackendMissing where onnxruntime or the device is not there, and BundleError for a
        graph that does not load.
        """
        ort = _import()
        if device not in PROVIDERS:
            raise BackendMissing(
                f"device '{device}' is not served by the onnxruntime backend here. "
                f"Expected one of: {', '.join(PROVIDERS)}."
            )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = None
        try:
            self._session = ort.InferenceSession(str(path), options, providers=[PROVIDERS[device]])
        except Exception as error:  # the library's errors share no base class
            raise BundleError(f"{path}: onnxruntime cannot load it ({error}).") from error
        if self._session.get_providers()[0] != PROVIDERS[device]:
            raise BackendMissing(
                f"asked for {PROVIDERS[device]}, got {self._session.get_providers()}."
            )
        self.device = device
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())

    def run(
        self,
        inputs: Mapping[str, Any],
        out: Mapping[str, Any] | None = None,
        stream: int | None = None,
    ) -> dict[str, Any]:
        """Return the outputs by name, written into `out` where it is given."""
        if self._session is None:
            raise EngineMismatch("the engine is closed. Open it again.")
        if stream is not None:
            raise EngineMismatch("a CPU engine takes no stream. Leave stream= out.")
        feeds = {spec.name: _fitting(spec, inputs.get(spec.name)) for spec in self.inputs}
        if len(inputs) != len(feeds):
            unknown = sorted(set(inputs) - set(feeds))
            raise EngineMismatch(f"unknown inputs {unknown}. Expected: {', '.join(feeds)}.")
        names = [spec.name for spec in self.outputs]
        if out is None:
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        rows = next(iter(feeds.values())).shape[0]
        for spec in self.outputs:
            array = _writable(spec, out.get(spec.name), rows)
            binding.bind_output(
                spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )
        self._session.run_with_iobinding(binding)
        return {name: out[name] for name in names}

    def close(self) -> None:
        """Drop the session; a second call does nothing."""
        self._session = None

    def __repr__(self) -> str:
        return f"OnnxRuntimeEngine(device={self.device})"


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissing(
            "onnxruntime is not installed. Install it:  pip install 'cir-rt[cpu]'"
        ) from error
    return onnxruntime


def _spec(node: Any) -> TensorSpec:
    return TensorSpec(name=node.name, dtype=_DTYPES[node.type], shape=tuple(node.shape))


def _fitting(spec: TensorSpec, array: Any) -> np.ndarray:
    """Return the array where it is contiguous and fits the spec, else raise EngineMismatch."""
    expected = f"{spec.name} {spec.dtype} {list(spec.shape)}"
    if not isinstance(array, np.ndarray):
        raise EngineMismatch(f"expected {expected}, got {type(array).__name__}.")
    fits = len(array.shape) == len(spec.shape) and all(
        isinstance(want, str) or want is None or want == have
        for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits or array.dtype != spec.dtype:
        raise EngineMismatch(f"expected {expected}, got {array.dtype} {list(array.shape)}.")
    return np.ascontiguousarray(array)


def _writable(spec: TensorSpec, array: Any, rows: int) -> np.ndarray:
    """Return the array where the engine may write `rows` rows straight into it."""
    fitting = _fitting(spec, array)
    direct = fitting is array or fitting.base is array or np.shares_memory(fitting, array)
    if not (direct and array.flags.c_contiguous and array.flags.writeable and len(array) == rows):
        raise EngineMismatch(
            f"out: expected {spec.name} contiguous, writable and of {rows} rows, "
            f"got {list(array.shape)}, strides {list(array.strides)}."
        )
    return fitting
