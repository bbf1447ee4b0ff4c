"""ONNX Runtime behind the engine protocol, on the CPU and on CUDA."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cir_rt.engines.onnxruntime_graphs import CapturedRuns
from cir_rt.engines.protocol import TensorSpec
from cir_rt.engines.tensors import Tensor, input_tensors, output_tensors
from cir_rt.errors import BackendMissing, BundleError, EngineMismatch
from cir_rt.kernels.cuda import probe

if TYPE_CHECKING:
    from cir_rt.bundle import Bundle

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(bool)": "bool",
}
# What a session on CUDA leaves to the CPU on purpose: arithmetic on shapes, a few numbers each.
# fmt: off
_SHAPE_OPERATORS = frozenset((
    "Shape", "Size", "Constant", "ConstantOfShape", "Identity", "Cast", "Range", "Reshape",
    "Gather", "Slice", "Squeeze", "Unsqueeze", "Concat", "Expand", "Where", "Equal", "Greater",
    "Less", "Not", "And", "Or", "Min", "Max", "Add", "Sub", "Mul", "Div", "Mod", "ReduceProd",
))
# fmt: on
_GRAPH_ERRORS = (
    "NoSuchFile",
    "InvalidProtobuf",
    "InvalidArgument",
    "InvalidGraph",
    "NotImplemented",
)
# Exact FP32 products instead of TF32's 10 bits, and no search over cuDNN's algorithms for every
# new batch size. https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


class OnnxRuntimeEngine:
    """One ONNX graph in one session."""

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        spinning: bool = False,
        fuse_qdq: bool = True,
        stream: int | None = None,
        graphs: bool = False,
    ) -> None:
        """Load the graph; `threads` inside an operator, all cores unless said.

        `spinning` lets idle threads wait busily: quicker to start, and they heat the machine.
        Without `fuse_qdq`, quantized graphs run as they are written: slowly, and FP8 too. On
        CUDA, `stream` is the handle of the stream to work on instead of the session's own, and
        `graphs` records the first run of a shape as a CUDA graph, to replay it from then on.
        Raises BackendMissing where onnxruntime or the device is not there, or a part of the graph
        would run elsewhere, and BundleError for a graph that does not load.
        """
        ort = _import("cpu" if device == "cpu" else "gpu")
        number = _cuda_number(device)
        if number is None and (stream is not None or graphs):
            raise EngineMismatch("a CPU engine takes no stream and no graphs. Leave them out.")
        self._session: Any = None
        self._stream, self._number, self.device = stream, number, device
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.disable_quant_qdq", str(int(not fuse_qdq)))
        for pool in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{pool}.allow_spinning", str(int(spinning)))
        if number is None:
            provider: Any = CPU
        else:
            _check_cuda(ort)
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            provider = (CUDA, _cuda_options(number, stream, graphs))
        self._session = _session(ort, path, options, provider, device)
        self.inputs = tuple(_spec(path, node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(path, node) for node in self._session.get_outputs())
        self._captured: CapturedRuns | None = None
        if graphs and number is not None:
            self._captured = CapturedRuns(ort, self._session, number)
        self._awaited = _run_options(ort, gpu_graph_id="-1" if graphs else "")
        self._queued = _run_options(
            ort,
            gpu_graph_id="-1" if graphs else "",
            disable_synchronize_execution_providers="1",
        )

    @classmethod
    def open(
        cls, bundle: Bundle, role: str, *, device: str = "cpu", threads: int | None = None
    ) -> OnnxRuntimeEngine:
        """Open a bundle's engine."""
        return cls(bundle.path(bundle.role(role).file), device=device, threads=threads)

    def run(
        self,
        inputs: Mapping[str, Any],
        out: Mapping[str, Any] | None = None,
        stream: int | None = None,
    ) -> dict[str, Any]:
        """Return the outputs by name: `out` itself where it is given, else fresh numpy arrays."""
        if self._session is None:
            raise EngineMismatch("the engine is closed. Open it again.")
        self._check_stream(stream)
        sizes: dict[str, int] = {}
        gpu = self._number is not None
        fed = input_tensors(self.inputs, inputs, sizes, gpu=gpu)
        given = output_tensors(self.outputs, out, sizes, gpu=gpu) if out is not None else {}
        if self._captured is not None and self._captured.takes(fed, given):
            found = self._captured.run(fed, given, self.outputs, sizes)
        else:
            queue = stream is not None and bool(given) and _all_on_gpu(fed, given)
            found = self._bound(fed, given, self._queued if queue else self._awaited)
        return found if out is None else {name: out[name] for name in given}

    def _bound(
        self, fed: Mapping[str, Tensor], given: Mapping[str, Tensor], options: Any
    ) -> dict[str, Any]:
        names = [spec.name for spec in self.outputs]
        if self._number is None and not given:  # a binding takes time to make
            feeds = {name: tensor.array for name, tensor in fed.items()}
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        binding = self._session.io_binding()
        for name, tensor in fed.items():
            if tensor.on_gpu:
                binding.bind_input(name, "cuda", self._number, *_memory(tensor))
            else:
                binding.bind_cpu_input(name, tensor.array)
        for spec in self.outputs:
            if spec.name not in given:
                binding.bind_output(spec.name, "cpu")
                continue
            tensor = given[spec.name]
            place = ("cuda", self._number) if tensor.on_gpu else ("cpu", 0)
            binding.bind_output(spec.name, *place, *_memory(tensor))
        self._session.run_with_iobinding(binding, options)
        if given:
            return {}
        return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))

    def _check_stream(self, stream: int | None) -> None:
        if stream is not None and self._number is None:
            raise EngineMismatch("a CPU engine takes no stream. Leave stream= out.")
        if stream is not None and stream != self._stream:
            raise EngineMismatch(
                f"opened on stream {self._stream}, asked to run on {stream}. onnxruntime keeps to "
                "one: open the engine with stream=…"
            )

    def close(self) -> None:
        """Drop the session; a second call does nothing."""
        self._session = self._captured = None

    def __repr__(self) -> str:
        return f"OnnxRuntimeEngine(device={self.device})"


def _import(extra: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissing(
            f"onnxruntime is not installed. Install it:  pip install 'cir-rt[{extra}]'"
        ) from error
    return onnxruntime


def _cuda_number(device: str) -> int | None:
    """Return N of "cuda:N", 0 of "cuda", None of "cpu". Raises BackendMissing for the rest."""
    if device == "cpu":
        return None
    found = re.fullmatch(r"cuda(?::(\d+))?", device)
    if found is None:
        raise BackendMissing(
            f"device '{device}' is not served by the onnxruntime backend. "
            "Expected one of: cpu, cuda, cuda:N."
        )
    return int(found[1] or 0)


def _check_cuda(ort: Any) -> None:
    """Raise BackendMissing where this onnxruntime cannot run on CUDA, or not say what it does."""
    probe()
    if CUDA not in ort.get_available_providers():
        raise BackendMissing(
            f"onnxruntime {ort.__version__} was built without CUDA. Install the other one:  "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'cir-rt[gpu]'"
        )
    if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        raise BackendMissing(
            f"onnxruntime {ort.__version__} does not say what it leaves to the CPU. Expected 1.24 "
            "or newer (Python 3.11 or newer):  pip install -U onnxruntime-gpu"
        )
    with redirect_stdout(sys.stderr):  # it prints what it does not find
        ort.preload_dlls()


def _cuda_options(number: int, stream: int | None, graphs: bool) -> dict[str, str]:
    options = {**_CUDA_OPTIONS, "device_id": str(number), "enable_cuda_graph": str(int(graphs))}
    return options if stream is None else {**options, "user_compute_stream": str(stream)}


def _run_options(ort: Any, **entries: str) -> Any:
    options = ort.RunOptions()
    for key, value in entries.items():
        if value:
            options.add_run_config_entry(key, value)
    return options


def _session(ort: Any, path: str | Path, options: Any, provider: Any, device: str) -> Any:
    """Open a session that runs on what was asked for, or raise."""
    wanted = provider if isinstance(provider, str) else provider[0]
    try:
        session = ort.InferenceSession(str(path), options, providers=[provider], enable_fallback=0)
    except Exception as error:  # the library's errors share no base class
        if wanted == CUDA and type(error).__name__ not in _GRAPH_ERRORS:
            raise BackendMissing(
                f"{path}: onnxruntime cannot open it on {device} ({error}). "
                "See what is missing:  cir-rt doctor"
            ) from error
        raise BundleError(f"{path}: onnxruntime cannot load it ({error}).") from error
    if session.get_providers()[0] != wanted:
        raise BackendMissing(
            f"asked for {wanted} on {device}, got {', '.join(session.get_providers())}. "
            "See what is missing:  cir-rt doctor"
        )
    if wanted == CUDA:
        _check_assignment(path, session, device)
    return session


def _check_assignment(path: str | Path, session: Any, device: str) -> None:
    """Raise BackendMissing where nodes that compute were left to another device."""
    strays = sorted(
        {
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name != CUDA
            for node in part.get_nodes()
            if node.op_type not in _SHAPE_OPERATORS
        }
    )
    if strays:
        raise BackendMissing(
            f"{path}: {', '.join(strays)} would run on the CPU, asked to run on {device}. A graph "
            "for the CPU? Build one for this device:  cir-rt build-engine MODEL --device cuda"
        )


def _spec(path: str | Path, node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise BundleError(
            f"{path}: {node.name} is {node.type}. Expected one of: {', '.join(_DTYPES)}."
        )
    return TensorSpec(name=node.name, dtype=_DTYPES[node.type], shape=tuple(node.shape))


def _memory(tensor: Tensor) -> tuple[Any, tuple[int, ...], int]:
    return tensor.dtype.type, tensor.shape, tensor.address


def _all_on_gpu(*groups: Mapping[str, Tensor]) -> bool:
    return all(tensor.on_gpu for group in groups for tensor in group.values())
