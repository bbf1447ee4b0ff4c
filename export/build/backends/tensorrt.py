"""TensorRT as the target: strongly typed graphs in FP16, INT8 and FP8, compiled into plans.

Where the GPU that a plan is for is at hand, the plan itself is measured. Where it is not (as when
TensorRT-RTX builds for GPUs elsewhere), the same graph runs on ONNX Runtime's CPU provider: recall
and cosine are then those of the graph, in its own number formats but not in TensorRT's own
arithmetic, and no latency is known.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from cir_rt.bundle import Target
from cir_rt.calibration.fitness import unfit_for_tensorrt
from cir_rt.calibration.recipe import Recipe, tensorrt_candidates
from cir_rt.calibration.samples import Samples
from cir_rt.engines.plan import Plan, Profile, Range
from cir_rt.engines.protocol import Engine
from cir_rt.engines.tensorrt import TensorRtEngine
from cir_rt.engines.tensorrt_packages import PACKAGES
from cir_rt.errors import BackendMissing, CompileError
from cir_rt.export.build.candidates import Candidate, Feeds, QuantizedGraphs, measured, vectors
from cir_rt.export.build.options import BuildOptions
from cir_rt.export.compile.compiler import compile_plan
from cir_rt.export.compile.options import CompileOptions, capabilities
from cir_rt.kernels.build import default_cache
from cir_rt.kernels.cuda import Device, device_index
from cir_rt.machine import versions

TUNED_BATCHES = (1, 8)  # a profile each: one for the single query, one for indexing


class TensorRtBackend:
    """Candidates for TensorRT or TensorRT-RTX."""

    def __init__(
        self, options: BuildOptions, samples: Samples, scratch: Path, limits: Mapping[str, int]
    ) -> None:
        """`limits` is the largest size of each free dimension, by its name.

        Raises BackendMissing where the package or, for TensorRT itself, the GPU is not there.
        """
        self.options, self.limits = options, limits
        self.package = PACKAGES[options.backend]
        self._settings = CompileOptions(package=options.backend, arch=options.arch)
        self.capabilities = capabilities(self._settings)
        self.version = self.package.load().__version__
        self.timed = self._here() in self.capabilities
        self._graphs = QuantizedGraphs(samples, scratch)
        self._plans: dict[Path, Plan] = {}  # by their graph

    def fp32(self, reference: Candidate) -> Candidate:
        """Return the reference on the GPU, where it is at hand."""
        if not self.timed:
            return reference
        return self._on_gpu(reference, "fp32", self._graphs.feeds(reference.role))

    def candidates(self, reference: Candidate, precision: str) -> list[Candidate]:
        """Return the graphs in a precision by name; none for FP32.

        For `auto`, FP16, and INT8 where it can be timed: it may well be slower. FP8 is asked for
        by name, since few GPUs have it.
        """
        names = {"fp32": (), "auto": ("fp16", "int8") if self.timed else ("fp16",)}
        recipes = (
            recipe
            for name in names.get(precision, (precision,))
            for recipe in tensorrt_candidates(name)
        )
        found = (self.quantized(reference, recipe) for recipe in recipes)
        return [way for way in found if way and np.isfinite(way.vectors).all()]

    def quantized(
        self, exact: Candidate, recipe: Recipe, *, probe: int | None = None
    ) -> Candidate | None:
        """Return the role by one recipe; None where it would quantize nothing."""
        path = self._graphs.write(exact, recipe)
        if path is None:
            return None
        if faults := unfit_for_tensorrt(onnx.load(path)):
            raise CompileError(f"{path.name}: {'; '.join(faults)}")
        feeds = self._graphs.feeds(exact.role, probe)
        if self.timed:
            return self._on_gpu(replace(exact, path=path, recipe=recipe), recipe.precision, feeds)
        return measured(exact.role, path, feeds, self.options.threads, recipe.precision, recipe)

    def install(self, candidate: Candidate, folder: Path) -> str:
        """Copy the plan; its facts are `plan`'s."""
        plan = self.plan(candidate)
        (folder / plan.file).parent.mkdir(exist_ok=True)
        shutil.copyfile(default_cache() / self._compiled(candidate.path).file, folder / plan.file)
        return plan.file

    def plan(self, candidate: Candidate) -> Plan:
        """Return the facts of a candidate's plan, as it lies in the bundle."""
        return replace(self._compiled(candidate.path), file=f"plans/{candidate.role}.plan")

    def target(self) -> Target:
        """Name the GPUs that the plans run on."""
        return Target(
            backend=self.package.name,
            device=self.options.device,
            instruction_set=",".join(self.capabilities),
        )

    def versions(self) -> dict[str, str]:
        """Name what quantized and what compiled."""
        return {**versions("onnxruntime", "onnx"), self.package.name: self.version}

    def _here(self) -> str | None:
        """Return the capability of the GPU that is asked for; None where it is not at hand."""
        try:
            gpu = Device(device_index(self.options.device))
        except BackendMissing:
            return None
        gpu.close()
        return gpu.capability

    def _on_gpu(self, candidate: Candidate, precision: str, feeds: Feeds) -> Candidate:
        """Return the candidate as its plan, measured on the GPU."""
        plan = self._compiled(candidate.path)
        path, device = default_cache() / plan.file, self.options.device
        engine: Engine = TensorRtEngine(path, plan, device=device)
        found = vectors(engine, feeds) if feeds else candidate.vectors
        return replace(candidate, precision=precision, engine=engine, vectors=found)

    def _compiled(self, path: Path) -> Plan:
        if path not in self._plans:
            settings = replace(self._settings, profiles=self._profiles(path))
            self._plans[path] = compile_plan(path, default_cache(), settings)
        return self._plans[path]

    def _profiles(self, path: Path) -> tuple[Profile, ...]:
        """Return a profile for each tuned batch; other free dimensions are tuned to their limit."""
        graph = onnx.load(path, load_external_data=False).graph
        dims = {d.dim_param for i in graph.input for d in i.type.tensor_type.shape.dim}
        rest = {
            name: Range(minimum=1, optimum=self.limits[name], maximum=self.limits[name])
            for name in sorted(dims - {"", "batch"})
        }
        most = self.limits["batch"]
        return tuple(
            {"batch": Range(minimum=1, optimum=tuned, maximum=1 if tuned == 1 else most), **rest}
            for tuned in TUNED_BATCHES
        )
