"""The building half of the played TensorRT: parser, network, configuration, builder."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import onnx
from fake_trt_types import MAGIC, TYPES, Severity, shape_of
from onnx import numpy_helper
from trt_surface import make

UNKNOWN = {"MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "QLinearMatMul", "QLinearConv"}


class ITensor:
    name = property(lambda self: self._name)
    shape = property(lambda self: self._trt.Dims(self._shape))
    dtype = property(lambda self: getattr(self._trt.DataType, self._type))

    def get_dimension_name(self, index: int) -> str | None:
        return self._names[index]


class ILayer:
    name = property(lambda self: self._node.name)
    num_outputs = property(lambda self: len(self._node.output))

    def get_output_type(self, index: int) -> Any:
        return self._trt.DataType.FLOAT


class INetworkDefinition:
    num_inputs = property(lambda self: len(self._inputs()))
    num_outputs = property(lambda self: len(self._model.graph.output))
    num_layers = property(lambda self: len(self._model.graph.node))

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        weights = {w.name for w in self._model.graph.initializer}
        return [i for i in self._model.graph.input if i.name not in weights]

    def get_input(self, index: int) -> Any:
        return self._tensor(self._inputs()[index], named=True)

    def get_output(self, index: int) -> Any:
        return self._tensor(self._model.graph.output[index], named=False)

    def get_layer(self, index: int) -> Any:
        return make(self._trt.ILayer, node=self._model.graph.node[index])

    def _tensor(self, value: onnx.ValueInfoProto, named: bool) -> Any:
        dims = value.type.tensor_type.shape.dim
        return make(
            self._trt.ITensor,
            name=value.name,
            shape=shape_of(value),
            type=TYPES[value.type.tensor_type.elem_type],
            names=[(d.dim_param or None) if named else None for d in dims],
        )


class ParserError:
    def code(self) -> Any:
        return self._trt.ErrorCode.UNSUPPORTED_NODE

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return self._number

    def node_name(self) -> str:
        return self._node.name if self._node else ""

    def node_operator(self) -> str:
        return self._node.op_type if self._node else ""


class OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._errors = network, []
        assert logger._made, "ILogger.__init__() was not called"

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        try:
            parsed = onnx.load(model)
        except Exception as error:  # protobuf's own kinds
            self._fail(str(error), -1, None)
            return False
        constants = {w.name: w for w in parsed.graph.initializer}
        for number, node in enumerate(parsed.graph.node):
            if node.op_type in UNKNOWN:
                self._fail(f"no importer for {node.op_type}", number, node)
            if node.op_type.endswith("QuantizeLinear") and len(node.input) > 2:
                zero = constants.get(node.input[2])
                if zero is not None and numpy_helper.to_array(zero).astype(np.float32).any():
                    self._fail("non-zero zero point is not supported", number, node)
        self._network._model = parsed
        return not self._errors

    def _fail(self, text: str, number: int, node: Any) -> None:
        self._errors.append(make(self._trt.ParserError, text=text, number=number, node=node))


class IOptimizationProfile:
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    def serialize(self) -> Any:
        return make(self._trt.IHostMemory, content=self._content)


class IBuilderConfig:
    builder_optimization_level = 3
    hardware_compatibility_level = None
    profiling_verbosity = None
    progress_monitor = property(
        lambda self: self._monitor, lambda self, monitor: self._monitored(monitor)
    )
    num_compute_capabilities = 0

    def _monitored(self, monitor: Any) -> None:
        assert monitor._made, "IProgressMonitor.__init__() was not called"
        self._monitor = monitor

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._limits[pool.name] = pool_size

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(dict(profile._shapes))
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        return make(self._trt.ITimingCache, content=bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        self._capabilities[index] = compute_capability.name
        return index < self.num_compute_capabilities


class Builder:
    def __init__(self, logger: Any) -> None:
        assert logger._made, "ILogger.__init__() was not called"
        self._logger = logger

    def create_network(self, flags: int = 0) -> Any:
        known = self._trt.NetworkDefinitionCreationFlag.__members__
        bits = {name for name, flag in known.items() if flags >> int(flag) & 1}
        assert flags == sum(1 << int(known[name]) for name in bits), f"unknown flags {flags:b}"
        typed = "STRONGLY_TYPED" in bits or int(self._trt.__version__.split(".")[0]) not in (10,)
        return make(self._trt.INetworkDefinition, typed=typed, model=None)

    def create_builder_config(self) -> Any:
        return make(
            self._trt.IBuilderConfig,
            flags={"TF32"},
            limits={},
            profiles=[],
            capabilities={},
            monitor=None,
            cache=None,
        )

    def create_optimization_profile(self) -> Any:
        return make(self._trt.IOptimizationProfile, shapes={})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        error = self._fault(network, config)
        if error:
            self._logger.log(Severity.ERROR, error)
            return None
        if config._monitor and not _reported(config._monitor):
            return None
        if config._cache is not None:
            config._cache._content += b"timed"
        facts = {
            "version": self._trt.__version__,
            "capabilities": sorted(config._capabilities.values()),
            "profiles": config._profiles,
            "flags": sorted(config._flags),
            "limits": config._limits,
        }
        content = network._model.SerializeToString()
        head = json.dumps(facts).encode()
        digest = hashlib.sha256(content).hexdigest().encode()
        plan = MAGIC + digest + b"\n" + head + b"\n" + content
        return make(self._trt.IHostMemory, content=plan)

    def _fault(self, network: Any, config: Any) -> str | None:
        if not network._typed:
            return "the network is weakly typed"
        free = {i.name for i in network._inputs() if -1 in shape_of(i)}
        for profile in config._profiles:
            if not free <= set(profile):
                return f"Network has dynamic inputs, but no profile for {free - set(profile)}"
        if free and not config._profiles:
            return "Network has dynamic inputs, but no optimization profile has been defined"
        return None


def _reported(monitor: Any) -> bool:
    """Tell the monitor of a build; False where it cancels."""
    monitor.phase_start("Building engine", None, 2)
    monitor.phase_start("Optimizing graph", "Building engine", 3)
    on = all(monitor.step_complete("Optimizing graph", step) for step in range(3))
    monitor.phase_finish("Optimizing graph")
    on = on and monitor.step_complete("Building engine", 0)
    monitor.phase_finish("Building engine")
    return on
