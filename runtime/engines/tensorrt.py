"""TensorRT plans behind the engine protocol, by either of the packages that hold TensorRT."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cir_rt.engines import plan as plans
from cir_rt.engines.plan import Plan
from cir_rt.engines.protocol import TensorSpec
from cir_rt.engines.tensorrt_packages import PACKAGES, log_of
from cir_rt.engines.tensorrt_runs import Captured, Run
from cir_rt.engines.tensors import Tensor, input_tensors, output_tensors
from cir_rt.errors import BackendMissing, BundleError, EngineMismatch
from cir_rt.kernels.cuda import Device, Stream, device_index

if TYPE_CHECKING:
    from cir_rt.bundle import Bundle

MOST_GRAPHS = 32  # recorded at a time; each holds a context and its memory

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT64": "int64",
    "INT32": "int32",
    "UINT8": "uint8",
    "INT8": "int8",
    "BOOL": "bool",
}


class TensorRtEngine:
    """One plan on one GPU; safe to call from any thread, one call at a time."""

    def __init__(
        self, path: str | Path, plan: Plan, *, device: str = "cuda", graphs: bool = False
    ) -> None:
        """Load the plan that `plan` vouches for.

        `graphs` records each shape's run as a CUDA graph and replays it. Raises BackendMissing
        where the GPU, its driver or a package is not there, EngineMismatch for a plan of another
        TensorRT or GPU, and BundleError for one that was altered or does not load.
        """
        if plan.package not in PACKAGES:
            known = ", ".join(PACKAGES)
            raise BackendMissing(f"no package '{plan.package}' is known. Expected one of: {known}.")
        package = PACKAGES[plan.package]
        self._engine: Any = None
        self._gpu = Device(device_index(device))  # first: without a driver TensorRT would crash
        trt = package.load()
        plans.check(plan, package.title, trt.__version__, self._gpu.capability)
        content = plans.read(Path(path), plan)
        self.device, self.plan = device, plan
        self._trt, self._lock = trt, threading.Lock()
        self._told = f"{self._gpu.name}, {self._gpu.capability}, {package.title} {plan.version}"
        with self._gpu.current():
            self._log = log_of(trt)
            self._runtime = trt.Runtime(self._log)
            if plan.version_compatible:
                self._runtime.engine_host_code_allowed = True  # it brings its own lean runtime
            self._engine = self._runtime.deserialize_cuda_engine(content)
            if self._engine is None:
                raise BundleError(f"{path}: {package.title} cannot load it ({self._log.told()}).")
            self._stream = self._gpu.stream()
            self._done = self._gpu.event()  # of the latest run
        self.inputs, self.outputs = plan.inputs, plan.outputs
        self._check_tensors(path)
        self._runs: dict[int, Run] = {}  # by profile
        self._graphs: dict[tuple[Any, ...], Captured] | None = {} if graphs else None

    @classmethod
    def open(
        cls, bundle: Bundle, role: str, *, device: str = "cuda", threads: int | None = None
    ) -> TensorRtEngine:
        """Open a bundle's engine; `threads` means nothing to a GPU."""
        plan = bundle.role(role).plan
        if plan is None:
            raise BundleError(f"{bundle.folder}: the manifest has no plan for '{role}'.")
        return cls(bundle.path(plan.file), plan, device=device)

    def run(
        self,
        inputs: Mapping[str, Any],
        out: Mapping[str, Any] | None = None,
        stream: int | None = None,
    ) -> dict[str, Any]:
        """Return the outputs by name: `out` itself where it is given, else fresh numpy arrays.

        Raises EngineMismatch also for sizes that no profile of the plan covers.
        """
        with self._lock:
            if self._engine is None:
                raise EngineMismatch("the engine is closed. Open it again.")
            sizes: dict[str, int] = {}
            fed = input_tensors(self.inputs, inputs, sizes, gpu=True)
            given = output_tensors(self.outputs, out, sizes, gpu=True) if out is not None else {}
            if any(tensor.size_bytes == 0 for tensor in fed.values()):
                found = {spec.name: _empty(spec, sizes) for spec in self.outputs}
            else:
                with self._gpu.current():
                    found = self._run(fed, given, stream)
        return {name: out[name] for name in given} if out is not None else found

    def layers(self) -> dict[str, Any]:
        """Return what TensorRT's inspector says of the plan's layers."""
        with self._lock, self._gpu.current():
            inspector = self._engine.create_engine_inspector()
            told = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        found: dict[str, Any] = json.loads(told)
        return found

    def close(self) -> None:
        """Release the plan, its contexts and memory; a second call does nothing."""
        with self._lock:
            if self._engine is None:
                return
            with self._gpu.current():
                self._done.synchronize()
                for run in self._runs.values():
                    run.close()
                for captured in (self._graphs or {}).values():
                    captured.close()
                self._runs, self._graphs = {}, None
                # Contexts went first; the engine goes before the runtime that made it.
                self._engine = None
                self._runtime = None
            self._gpu.close()

    def __repr__(self) -> str:
        return f"TensorRtEngine(device={self.device}, {self._told})"

    def _run(
        self, fed: Mapping[str, Tensor], given: Mapping[str, Tensor], stream: int | None
    ) -> dict[str, np.ndarray]:
        queue = self._stream if stream is None else self._gpu.borrowed(stream)
        # A context holds one run at a time, whatever streams they are on.
        queue.wait(self._done)
        if stream is None:
            for producer in _producers(fed):
                self._follow(queue, self._gpu.borrowed(producer))
        run = self._prepared(fed, given, queue)
        run.fill(fed)
        run.queue(queue)
        self._done.record(queue)
        on_gpu = given and all(t.on_gpu for t in (*fed.values(), *given.values()))
        if stream is not None and on_gpu:
            return {}
        queue.synchronize()
        return run.results(given)

    def _prepared(
        self, fed: Mapping[str, Tensor], given: Mapping[str, Tensor], queue: Stream
    ) -> Run | Captured:
        """Return a run that is bound to these tensors."""
        profile = self._profile(fed)
        if self._graphs is None:
            if profile not in self._runs:
                self._runs[profile] = self._new_run(profile)
            self._runs[profile].bind(fed, given)
            return self._runs[profile]
        key = tuple(
            (t.shape, t.address if t.on_gpu else None) for t in (*fed.values(), *given.values())
        )
        if key not in self._graphs:
            if len(self._graphs) == MOST_GRAPHS:
                raise EngineMismatch(
                    f"{MOST_GRAPHS} graphs are recorded, this is one more. Keep to few shapes and "
                    "leave arrays on the GPU in place, or open the engine without graphs."
                )
            run = self._new_run(profile)
            run.bind(fed, given)
            run.fill(fed)
            if queue is not self._stream:
                self._follow(self._stream, queue)
            self._graphs[key] = Captured(run, self._stream)
        return self._graphs[key]

    def _new_run(self, profile: int) -> Run:
        return Run(self._gpu, self._engine, profile, self.outputs, self._stream, self._log)

    def _profile(self, fed: Mapping[str, Tensor]) -> int:
        """Return the profile that covers the inputs, the one tuned nearest to them."""
        best: tuple[int, int] | None = None
        for index in range(self._engine.num_optimization_profiles):
            distance = 0
            for name, tensor in fed.items():
                low, tuned, high = self._engine.get_tensor_profile_shape(name, index)
                if not all(a <= n <= b for a, n, b in zip(low, tensor.shape, high, strict=True)):
                    break
                distance += abs(math.prod(tuned) - math.prod(tensor.shape))
            else:
                best = min(best or (distance, index), (distance, index))
        if best is None:
            raise EngineMismatch(_outside(self._engine, fed))
        return best[1]

    def _follow(self, queue: Stream, other: Stream) -> None:
        """Queue a wait for all that stands on another stream now."""
        event = self._gpu.event()
        event.record(other)
        queue.wait(event)
        event.close()

    def _check_tensors(self, path: str | Path) -> None:
        """Hold the manifest's specs against the plan's own tensors. Raises BundleError."""
        engine, trt = self._engine, self._trt
        names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
        found = {
            name: (
                engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                _DTYPES.get(engine.get_tensor_dtype(name).name),
                tuple(engine.get_tensor_shape(name)),
            )
            for name in names
        }
        told = {
            spec.name: (
                spec in self.inputs,
                spec.dtype,
                tuple(d if isinstance(d, int) else -1 for d in spec.shape),
            )
            for spec in (*self.inputs, *self.outputs)
        }
        if found != told:
            raise BundleError(f"{path}: holds {found}, the manifest says {told}.")


def _producers(fed: Mapping[str, Tensor]) -> set[int]:
    """Return the streams on which arrays on the GPU say that they are still being written."""
    told = (t.array.__cuda_array_interface__.get("stream") for t in fed.values() if t.on_gpu)
    return {stream for stream in told if stream is not None}


def _empty(spec: TensorSpec, sizes: Mapping[str, int]) -> np.ndarray:
    shape = [sizes.get(d, 0) if isinstance(d, str) else d for d in spec.shape]
    return np.zeros(shape, spec.dtype)


def _outside(engine: Any, fed: Mapping[str, Tensor]) -> str:
    ranges = []
    for name in fed:
        for index in range(engine.num_optimization_profiles):
            low, _, high = engine.get_tensor_profile_shape(name, index)
            ranges.append(f"{name} {list(low)} to {list(high)}")
    asked = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in fed.items())
    return f"{asked}: no profile of the plan covers it. Expected: {'; '.join(ranges)}."
