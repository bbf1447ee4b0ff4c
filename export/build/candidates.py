"""A way to run a role: its graph, the engine that measures it, and the recipe that made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx.external_data_helper import load_external_data_for_model

from cir_rt.calibration.quantize import Quantizer
from cir_rt.calibration.recipe import Recipe
from cir_rt.calibration.samples import BATCH, Samples
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.engines.protocol import Engine

Feeds = Sequence[dict[str, np.ndarray]]

TOKENS = 64  # pictures whose tokens are held for comparison: BLIP's are 1.8 MB each


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One way to run a role, measured on the calibration inputs."""

    role: str
    precision: str  # the name that the manifest gives it
    path: Path  # its ONNX graph
    engine: Engine
    recipe: Recipe | None  # None for FP32
    vectors: np.ndarray  # (inputs, dim) of the calibration inputs, unit length

    def __str__(self) -> str:
        return str(self.recipe) if self.recipe else self.precision


class QuantizedGraphs:
    """The quantized graphs of one build, in its scratch folder; ranges are measured once a role."""

    def __init__(self, samples: Samples, scratch: Path) -> None:
        self._samples, self._scratch = samples, scratch
        self._quantizers: dict[str, Quantizer] = {}  # by role
        self._count = 0  # of graphs written

    def write(self, exact: Candidate, recipe: Recipe) -> Path | None:
        """Write the role by one recipe; None where it would quantize nothing."""
        if exact.role not in self._quantizers:
            self._quantizers[exact.role] = Quantizer(exact.path, self.feeds(exact.role))
        self._count += 1
        path = self._scratch / f"{exact.role}.{self._count}.onnx"
        count = self._quantizers[exact.role].write(recipe, path)
        return path if count or recipe.format == "fp16" else None

    def feeds(self, role: str, probe: int | None = None) -> Feeds:
        """Return the role's inputs, or the first batches that hold `probe` of them."""
        feeds = self._samples.feeds(role)
        return feeds if probe is None else feeds[: -(-probe // BATCH)]


def reference(
    role: str, graphs: Path, scratch: Path, feeds: Feeds, threads: int | None
) -> Candidate:
    """Return the role's exported graph in plain FP32 on ONNX Runtime's CPU provider."""
    path = scratch / f"{role}.fp32.onnx"
    _materialise(graphs / f"{role}.onnx", path)
    return measured(role, path, feeds, threads)


def measured(
    role: str,
    path: Path,
    feeds: Feeds,
    threads: int | None,
    precision: str = "fp32",
    recipe: Recipe | None = None,
) -> Candidate:
    """Open a graph on ONNX Runtime's CPU provider and run the calibration inputs through it."""
    engine = OnnxRuntimeEngine(path, threads=threads, fuse_qdq=precision != "fp8")
    return Candidate(
        role=role,
        precision=precision,
        path=path,
        engine=engine,
        recipe=recipe,
        vectors=vectors(engine, feeds),
    )


def vectors(engine: Engine, feeds: Feeds) -> np.ndarray:
    """Return what an engine makes of its inputs as unit vectors (inputs, dim).

    Tokens are a vector a picture, of as many pictures as are held.
    """
    output = engine.outputs[0].name
    if not feeds:
        return np.zeros((0, 1), np.float32)
    if output == "vector":
        return np.concatenate([engine.run(feed)[output] for feed in feeds])
    found = [engine.run(feed)[output] for feed in feeds[: -(-TOKENS // BATCH)]]
    tokens = np.concatenate([part.reshape(len(part), -1) for part in found])
    return tokens / np.linalg.norm(tokens, axis=1, keepdims=True)


def _materialise(graph: Path, out: Path) -> None:
    """Write the graph as plain ONNX in FP32: weights inside, casts and batch norms folded."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    model = onnx.load(out, load_external_data=False)
    load_external_data_for_model(model, str(graph.parent))  # what folding left outside
    for k, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}.{k}"  # recipes give nodes back by name
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.graph.value_info[:]
    onnx.save(model, out)
