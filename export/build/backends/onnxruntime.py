"""ONNX Runtime as the target: FP32 graphs, and INT8 graphs for this machine's CPU."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from cir_rt.bundle import Target
from cir_rt.calibration.gate import cosines
from cir_rt.calibration.quantize import quantizable
from cir_rt.calibration.recipe import Recipe, candidates
from cir_rt.calibration.samples import Samples
from cir_rt.export.build.backends.sizes import Sizes
from cir_rt.export.build.candidates import Candidate, QuantizedGraphs, measured
from cir_rt.export.build.options import BuildOptions
from cir_rt.machine import instruction_set, versions

NEAR = 0.999  # mean cosine to FP32 from which nothing is left to smooth
STRENGTH = 0.5  # the paper's own choice for most models


class OnnxRuntimeBackend:
    """Candidates for ONNX Runtime; what is measured here is what ships."""

    timed = True

    def __init__(
        self, options: BuildOptions, samples: Samples, scratch: Path, sizes: Sizes
    ) -> None:
        self.options = options
        self._graphs = QuantizedGraphs(samples, scratch)

    def fp32(self, reference: Candidate) -> Candidate:
        """Return the reference: it runs on the target itself."""
        return reference

    def candidates(self, reference: Candidate, precision: str) -> list[Candidate]:
        """Return the INT8 graphs that this machine's recipes give; none where nothing fits."""
        ways: dict[int, Candidate] = {}  # by the number of layers: recipes may come to the same
        for recipe in candidates() if precision != "fp32" else ():
            count = len(quantizable(onnx.load(reference.path), recipe))
            if count not in ways and (way := self.quantized(reference, recipe)):
                ways[count] = self._smoothed(reference, way)
        return [way for way in ways.values() if np.isfinite(way.vectors).all()]

    def quantized(
        self, exact: Candidate, recipe: Recipe, *, probe: int | None = None
    ) -> Candidate | None:
        """Return the role by one recipe; None where it would quantize nothing."""
        path = self._graphs.write(exact, recipe)
        if path is None:
            return None
        feeds = self._graphs.feeds(exact.role, probe)
        found = measured(exact.role, path, feeds, self.options.threads, recipe.precision, recipe)
        if probe is not None:
            path.unlink()  # a search tries a dozen, each as large as the model
        return found

    def opened(self, role: str, path: Path, precision: str) -> Candidate:
        """Return a graph that is already in that precision."""
        return measured(role, path, (), self.options.threads, precision)

    def _smoothed(self, reference: Candidate, way: Candidate) -> Candidate:
        """Return the way with outlier channels folded, where that brings it nearer to FP32.

        It is tried where the way strays, and costs no time when the engine runs.
        """
        strayed = cosines(reference.vectors, way.vectors).mean
        if way.recipe is None or strayed >= NEAR:
            return way
        folded = self.quantized(reference, replace(way.recipe, smooth=STRENGTH))
        if folded and cosines(reference.vectors, folded.vectors).mean > strayed:
            return folded
        return way

    def install(self, candidate: Candidate, folder: Path) -> str:
        """Copy the graph."""
        file = f"onnx/{candidate.role}.onnx"
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(candidate.path, folder / file)
        return file

    def plan(self, candidate: Candidate) -> None:
        """Return None: the graph is the engine."""

    def target(self) -> Target:
        """Name the CPU's instruction set: it decides how INT8 products round."""
        return Target(
            backend="onnxruntime", device=self.options.device, instruction_set=instruction_set()
        )

    def versions(self) -> dict[str, str]:
        """Name what quantized and what runs."""
        return versions("onnxruntime", "onnx")
