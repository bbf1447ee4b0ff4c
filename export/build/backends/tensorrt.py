"""TensorRT as the target: strongly typed graphs in FP16, INT8 and FP8, compiled into plans.

Where the GPU that a plan is for is at hand, the plan itself is measured. Where it is not (as when
TensorRT-RTX builds for GPUs elsewhere), the same graph runs on ONNX Runtime's CPU provider: recall
and cosine are then those of the graph, in its own number formats but not in TensorRT's own
arithmetic, and no latency is known.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from cir_rt.bundle import Target
from cir_rt.calibration.fitness import unfit_for_tensorrt
from cir_rt.calibration.recipe import Recipe, tensorrt_candidates
from cir_rt.calibration.samples import Samples
from cir_rt.engines.plan import Plan
from cir_rt.engines.tensorrt import TensorRtEngine
from cir_rt.engines.tensorrt_packages import PACKAGES
from cir_rt.errors import BackendMissing, CompileError
from cir_rt.export.build.backends.sizes import Sizes, profiles
from cir_rt.export.build.candidates import Candidate, Feeds, QuantizedGraphs, measured, vectors
from cir_rt.export.build.options import BuildOptions
from cir_rt.export.compile.compiler import compile_plan
from cir_rt.export.compile.options import capabilities
from cir_rt.kernels.build import default_cache
from cir_rt.kernels.cuda import Device, device_index
from cir_rt.machine import versions


class TensorRtBackend:
    """Candidates for TensorRT or TensorRT-RTX."""

    def __init__(
        self, options: BuildOptions, samples: Samples, scratch: Path, sizes: Sizes
    ) -> None:
        """`sizes` are those that each free dimension may take, by its name.

        Raises BackendMissing where the package or, for TensorRT itself, the GPU is not there.
        """
        self.options, self.sizes = options, sizes
        self.package = PACKAGES[options.backend]
        self._settings = options.compiling()
        self.capabilities = capabilities(self._settings)
        self.version = self.package.load().__version__
        self.timed = self._here() in self.capabilities
        self._graphs = QuantizedGraphs(samples, scratch)
        self._plans: dict[Path, Plan] = {}  # by their graph

    def fp32(self, reference: Candidate) -> Candidate:
        """Return the reference on the GPU, where it is at hand."""
        if not self.timed:
            return reference
        feeds = self._graphs.feeds(reference.role)
        return self._on_gpu(reference.role, reference.path, "fp32", None, feeds)

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
        feeds = self._graphs.feeds(exact.role, probe)
        return self._measured(exact.role, path, recipe.precision, recipe, feeds)

    def opened(self, role: str, path: Path, precision: str) -> Candidate:
        """Return a graph that is already in that precision."""
        return self._measured(role, path, precision, None, ())

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

    def _measured(
        self, role: str, path: Path, precision: str, recipe: Recipe | None, feeds: Feeds
    ) -> Candidate:
        """Return a graph that TensorRT takes, measured on the GPU where it is at hand."""
        if faults := unfit_for_tensorrt(onnx.load(path)):
            raise CompileError(f"{path.name}: {'; '.join(faults)}")
        if self.timed:
            return self._on_gpu(role, path, precision, recipe, feeds)
        return measured(role, path, feeds, self.options.threads, precision, recipe)

    def _on_gpu(
        self, role: str, path: Path, precision: str, recipe: Recipe | None, feeds: Feeds
    ) -> Candidate:
        """Return a graph as its plan, measured on the GPU."""
        plan = self._compiled(path)
        engine = TensorRtEngine(default_cache() / plan.file, plan, device=self.options.device)
        return Candidate(
            role=role,
            precision=precision,
            path=path,
            engine=engine,
            recipe=recipe,
            vectors=vectors(engine, feeds),
        )

    def _compiled(self, path: Path) -> Plan:
        if path not in self._plans:
            graph = onnx.load(path, load_external_data=False).graph
            free = {d.dim_param for i in graph.input for d in i.type.tensor_type.shape.dim} - {""}
            settings = replace(self._settings, profiles=profiles(free, self.sizes))
            self._plans[path] = compile_plan(path, default_cache(), settings)
        return self._plans[path]
