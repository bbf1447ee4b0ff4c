"""onnxruntime as it is on a machine with a GPU, played on host memory.

Every call is held against the signature of the installed library, and then run by its CPU
provider: "device" addresses are host addresses. What CUDA graphs forbid is refused: a recorded run
whose arrays moved. This shows that the calls are those that the library takes and that the way of
the data is right; it is not a run on a GPU.
"""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def signed(real: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the call's arguments by name. Raises TypeError for a call that `real` refuses."""
    bound = inspect.signature(real).bind(None, *args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


class DeviceArray:
    """Host memory that claims to be a GPU's."""

    def __init__(self, array: np.ndarray, *, strided: bool = False) -> None:
        self.array = np.array(array)
        self.__cuda_array_interface__ = {
            **self.array.__array_interface__,
            "version": 3,
            "strides": tuple(2 * s for s in self.array.strides) if strided else None,
        }


class FakeOrtValue:
    """A tensor on the device: a copy in memory of its own."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @classmethod
    def ortvalue_from_numpy(cls, *args: Any, **kwargs: Any) -> FakeOrtValue:
        real = onnxruntime.OrtValue.ortvalue_from_numpy.__func__
        call = signed(real, *args, **kwargs)
        assert call["device_type"] == "cuda"
        return cls(call["numpy_obj"].copy())

    @classmethod
    def ortvalue_from_shape_and_type(cls, *args: Any, **kwargs: Any) -> FakeOrtValue:
        real = onnxruntime.OrtValue.ortvalue_from_shape_and_type.__func__
        call = signed(real, *args, **kwargs)
        assert call["device_type"] == "cuda"
        return cls(np.zeros(call["shape"], call["element_type"]))

    def update_inplace(self, data: np.ndarray) -> None:
        assert (data.shape, data.dtype) == (self.array.shape, self.array.dtype)
        self.array[...] = data

    def numpy(self) -> np.ndarray:
        return self.array.copy()


class FakeBinding:
    """Binds device arrays as host arrays at the same address."""

    def __init__(self, session: FakeSession) -> None:
        self.real = session.real.io_binding()
        self.places: dict[str, int | None] = {}  # None: on the host, where it may move

    def _signed(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return signed(getattr(onnxruntime.IOBinding, name), *args, **kwargs)

    def bind_cpu_input(self, *args: Any, **kwargs: Any) -> None:
        call = self._signed("bind_cpu_input", *args, **kwargs)
        self.places[call["name"]] = None
        self.real.bind_cpu_input(call["name"], call["arr_on_cpu"])

    def bind_input(self, *args: Any, **kwargs: Any) -> None:
        call = self._signed("bind_input", *args, **kwargs)
        self._bind(self.real.bind_input, call)

    def bind_output(self, *args: Any, **kwargs: Any) -> None:
        call = self._signed("bind_output", *args, **kwargs)
        if call["buffer_ptr"] is None:
            assert call["device_type"] == "cpu"
            self.places[call["name"]] = None
            self.real.bind_output(call["name"], "cpu")
        else:
            self._bind(self.real.bind_output, call)

    def _bind(self, bind: Any, call: dict[str, Any]) -> None:
        on_device = call["device_type"] == "cuda"
        self.places[call["name"]] = call["buffer_ptr"] if on_device else None
        bind(call["name"], "cpu", 0, call["element_type"], call["shape"], call["buffer_ptr"])

    def bind_ortvalue_input(self, name: str, ortvalue: FakeOrtValue) -> None:
        a = ortvalue.array
        self.places[name] = a.ctypes.data
        self.real.bind_input(name, "cpu", 0, a.dtype.type, a.shape, a.ctypes.data)

    def bind_ortvalue_output(self, name: str, ortvalue: FakeOrtValue) -> None:
        a = ortvalue.array
        self.places[name] = a.ctypes.data
        self.real.bind_output(name, "cpu", 0, a.dtype.type, a.shape, a.ctypes.data)

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return self.real.copy_outputs_to_cpu()


class FakeSession:
    """A session on CUDA by name, on the CPU in truth."""

    provides: tuple[str, ...] = (CUDA, CPU)
    strays: tuple[str, ...] = ("Shape",)  # operators that it left to the CPU
    error: Exception | None = None

    def __init__(self, path: str, sess_options: Any, *, providers: Any, **kwargs: Any) -> None:
        assert kwargs == {"enable_fallback": 0}
        ((name, self.options),) = providers
        assert name == CUDA
        assert all(isinstance(v, str) for v in self.options.values())
        entry = sess_options.get_session_config_entry("session.record_ep_graph_assignment_info")
        assert entry == "1"
        if self.error is not None:
            raise self.error
        self.real = onnxruntime.InferenceSession(path, sess_options, providers=[CPU])
        self.recorded: dict[str, dict[str, int | None]] = {}
        self.runs: list[str] = []  # "plain", "recorded", "replayed"
        self.synchronized: list[bool] = []

    def get_providers(self) -> list[str]:
        return list(self.provides)

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [SimpleNamespace(op_type=op, name=op, domain="") for op in self.strays]
        return [
            SimpleNamespace(ep_name=CPU, get_nodes=lambda: nodes),
            SimpleNamespace(ep_name=CUDA, get_nodes=lambda: [SimpleNamespace(op_type="MatMul")]),
        ]

    def get_inputs(self) -> Any:
        return self.real.get_inputs()

    def get_outputs(self) -> Any:
        return self.real.get_outputs()

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self)

    def run_with_iobinding(self, binding: FakeBinding, options: Any = None) -> None:
        self.runs.append(self._record(binding, _entry(options, "gpu_graph_id")))
        waits = _entry(options, "disable_synchronize_execution_providers") != "1"
        self.synchronized.append(waits)
        self.real.run_with_iobinding(binding.real)

    def _record(self, binding: FakeBinding, graph_id: str) -> str:
        if self.options["enable_cuda_graph"] == "0":
            assert graph_id == ""
            return "plain"
        if graph_id == "-1":
            return "plain"
        assert None not in binding.places.values(), "a recorded run binds device memory alone"
        known = self.recorded.setdefault(graph_id, dict(binding.places))
        assert known == binding.places, "a recorded run's arrays moved"
        replayed = "recorded:" + graph_id in self.runs
        return "replayed" if replayed else "recorded:" + graph_id


def _entry(options: Any, key: str) -> str:
    try:
        return options.get_run_config_entry(key)
    except RuntimeError:  # it has none
        return ""


def install(patch: pytest.MonkeyPatch, session: type = FakeSession, **changes: Any) -> None:
    """Make `import onnxruntime` and the driver those of a machine with a GPU."""
    values = {
        "__version__": onnxruntime.__version__,
        "SessionOptions": onnxruntime.SessionOptions,
        "RunOptions": onnxruntime.RunOptions,
        "OrtValue": FakeOrtValue,
        "InferenceSession": session,
        "get_available_providers": lambda: [CUDA, CPU],
        "preload_dlls": lambda: print("not found: libcudart.so"),
    }
    patch.setitem(sys.modules, "onnxruntime", SimpleNamespace(**{**values, **changes}))
    patch.setattr("cir_rt.engines.onnxruntime.probe", lambda: 8)
