"""ONNX Runtime on CUDA as the target: graphs in FP32, and in FP16 by casts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cir_rt.bundle import Target
from cir_rt.calibration.recipe import Recipe
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.export.build.backends.onnxruntime import OnnxRuntimeBackend
from cir_rt.export.build.candidates import Candidate, Feeds, vectors
from cir_rt.machine import versions

HALF = Recipe(format="fp16", half=True)


class OnnxRuntimeCudaBackend(OnnxRuntimeBackend):
    """Candidates for the GPU at hand, measured on it."""

    def fp32(self, reference: Candidate) -> Candidate:
        """Return the reference on the GPU. Raises BackendMissing where that cannot be."""
        feeds = self._graphs.feeds(reference.role)
        return self._on_gpu(reference.role, reference.path, "fp32", None, feeds)

    def candidates(self, reference: Candidate, precision: str) -> list[Candidate]:
        """Return the FP16 graph; none for FP32, nor where numbers leave its range."""
        way = self.quantized(reference, HALF) if precision != "fp32" else None
        return [way] if way and np.isfinite(way.vectors).all() else []

    def quantized(
        self, exact: Candidate, recipe: Recipe, *, probe: int | None = None
    ) -> Candidate | None:
        """Return the role by one recipe; None where it would change nothing."""
        path = self._graphs.write(exact, recipe)
        if path is None:
            return None
        feeds = self._graphs.feeds(exact.role, probe)
        return self._on_gpu(exact.role, path, recipe.precision, recipe, feeds)

    def opened(self, role: str, path: Path, precision: str) -> Candidate:
        """Return a graph that is already in that precision."""
        return self._on_gpu(role, path, precision, None, ())

    def target(self) -> Target:
        """Name no GPU: the library brings kernels for all that it knows."""
        return Target(backend="onnxruntime", device=self.options.device, instruction_set="cuda")

    def versions(self) -> dict[str, str]:
        """Name what runs by the package that it came from."""
        return versions("onnxruntime-gpu", "onnx")

    def _on_gpu(
        self, role: str, path: Path, precision: str, recipe: Recipe | None, feeds: Feeds
    ) -> Candidate:
        engine = OnnxRuntimeEngine(path, device=self.options.device, threads=self.options.threads)
        return Candidate(
            role=role,
            precision=precision,
            path=path,
            engine=engine,
            recipe=recipe,
            vectors=vectors(engine, feeds),
        )
