"""The running half of the played TensorRT: runtime, engine, inspector, execution context."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fake_trt_types import MAGIC, TYPES, Severity, shape_of
from trt_surface import make

_NUMPY = {"FLOAT": "float32", "HALF": "float16", "BOOL": "bool"}


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: Any) -> None:
        assert self._trt._gpu.count, "TensorRT crashes without a driver"
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        self._trt._gpu.require_current()
        if not serialized_engine.startswith(MAGIC) or serialized_engine.count(b"\n") < 2:
            self._logger.log(Severity.ERROR, "Magic tag does not match")
            return None
        digest, head, content = serialized_engine[len(MAGIC) :].split(b"\n", 2)
        if hashlib.sha256(content).hexdigest().encode() != digest:
            self._logger.log(Severity.ERROR, "the plan is truncated")
            return None
        facts = json.loads(head)
        compatible = "VERSION_COMPATIBLE" in facts["flags"] and self.engine_host_code_allowed
        if facts["version"] != self._trt.__version__ and not compatible:
            self._logger.log(Severity.ERROR, f"built with {facts['version']}")
            return None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return make(
            self._trt.ICudaEngine,
            session=session,
            model=onnx.load_from_string(content),
            profiles=facts["profiles"],
        )


class ICudaEngine:
    num_io_tensors = property(lambda self: len(self._values()))
    num_optimization_profiles = property(lambda self: len(self._profiles))

    def _values(self) -> list[tuple[onnx.ValueInfoProto, str]]:
        graph = self._model.graph
        weights = {w.name for w in graph.initializer}
        inputs = [(i, "INPUT") for i in graph.input if i.name not in weights]
        return inputs + [(o, "OUTPUT") for o in graph.output]

    def _value(self, name: str) -> tuple[onnx.ValueInfoProto, str]:
        return next(pair for pair in self._values() if pair[0].name == name)

    def get_tensor_name(self, index: int) -> str:
        return self._values()[index][0].name

    def get_tensor_mode(self, name: str) -> Any:
        return getattr(self._trt.TensorIOMode, self._value(name)[1])

    def get_tensor_dtype(self, name: str) -> Any:
        kind = self._value(name)[0].type.tensor_type.elem_type
        return getattr(self._trt.DataType, TYPES[kind])

    def get_tensor_shape(self, name: str) -> Any:
        return self._trt.Dims(shape_of(self._value(name)[0]))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        assert self._value(name)[1] == "INPUT", "profiles are of inputs alone"
        fixed = [list(shape_of(self._value(name)[0]))] * 3
        return [self._trt.Dims(s) for s in self._profiles[profile_index].get(name, fixed)]

    def create_execution_context(self) -> Any:
        self._trt._gpu.require_current()
        return make(
            self._trt.IExecutionContext,
            engine=self,
            profile=None,
            shapes={},
            addresses={},
            turns=[],
        )

    def create_engine_inspector(self) -> Any:
        return make(self._trt.EngineInspector, engine=self)


class EngineInspector:
    def get_engine_information(self, format: Any) -> str:  # noqa: A002
        assert format.name == "JSON"
        names = [node.name for node in self._engine._model.graph.node]
        return json.dumps({"Layers": names})


class IExecutionContext:
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self._trt._gpu.streams
        self._profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        assert self._profile is not None, "no optimization profile is set"
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        inputs = [v.name for v, mode in self._engine._values() if mode == "INPUT"]
        missing = [name for name in inputs if name not in self._shapes]
        if not missing:
            feeds = {name: np.zeros(self._shapes[name], self._type(name)) for name in inputs}
            for name, found in self._outputs(feeds).items():
                self._shapes[name] = found.shape
        return missing

    def get_tensor_shape(self, name: str) -> Any:
        return self._trt.Dims(self._shapes[name])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        size = int(np.prod(self._shapes[name])) * self._type(name).itemsize
        if not self._trt._gpu.is_device(memory, size):
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        gpu = self._trt._gpu
        gpu.require_current()
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        assert set(addresses) == {v.name for v, _ in self._engine._values()}
        stream = gpu.streams[stream_handle]
        turn = object()
        if stream.captured is None:
            self._turns.append(turn)

        def work() -> None:
            if turn in self._turns:
                assert self._turns.pop(0) is turn, "a context runs on two streams at once"
            views = {n: gpu.at(addresses[n], shapes[n], self._type(n)) for n in addresses}
            modes = {v.name: mode for v, mode in self._engine._values()}
            feeds = {n: views[n].copy() for n in views if modes[n] == "INPUT"}
            for name, found in self._outputs(feeds).items():
                views[name][...] = found

        stream.add(work)
        return True

    def _type(self, name: str) -> np.dtype:
        told = self._engine.get_tensor_dtype(name).name
        return np.dtype(_NUMPY.get(told, told.lower()))

    def _outputs(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = self._engine._session
        names = [o.name for o in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))
