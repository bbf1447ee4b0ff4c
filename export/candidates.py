"""The ways to run a role's graph on this machine, and the race between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx.external_data_helper import load_external_data_for_model

from cir_rt.calibration.gate import duel
from cir_rt.calibration.quantize import quantize
from cir_rt.calibration.recipe import Int8Recipe, candidates
from cir_rt.calibration.samples import Samples
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine

GATE_RUNS = 150


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run a role: its graph, its engine, and the recipe that made it."""

    role: str
    path: Path
    engine: OnnxRuntimeEngine
    recipe: Int8Recipe | None  # None for FP32
    vectors: np.ndarray  # of the calibration inputs

    @property
    def precision(self) -> str:
        """The name that the manifest gives it."""
        return "int8" if self.recipe else "fp32"

    def __str__(self) -> str:
        return "+".join(("int8", *self.recipe.operators)) if self.recipe else "fp32"


class Candidates:
    """Makes candidates from exported graphs and real inputs, in a scratch folder."""

    def __init__(self, graphs: Path, samples: Samples, scratch: Path, threads: int | None) -> None:
        self.graphs = graphs
        self.samples = samples
        self.scratch = scratch
        self.threads = threads

    def fp32(self, role: str) -> Candidate:
        """Return the role's graph as plain FP32."""
        path = self.scratch / f"{role}.fp32.onnx"
        _materialise(self.graphs / f"{role}.onnx", path)
        return self._candidate(role, path, None)

    def int8(self, fp32: Candidate) -> list[Candidate]:
        """Return the INT8 graphs that this machine's recipes give; none where nothing fits."""
        ways: dict[int, Candidate] = {}  # by the number of operators: recipes may come to the same
        for recipe in candidates():
            path = self.scratch / f"{fp32.role}.int8-{'-'.join(recipe.operators)}.onnx"
            count = quantize(fp32.path, path, recipe, self.samples.feeds(fp32.role))
            if count and count not in ways:
                ways[count] = self._candidate(fp32.role, path, recipe)
        return [way for way in ways.values() if np.isfinite(way.vectors).all()]

    def fastest(self, ways: Sequence[Candidate]) -> tuple[Candidate, str]:
        """Race each way against the best so far at batch 1; return the winner and the story."""
        best, told = ways[0], []
        feed = self.single(best.role)
        for way in ways[1:]:
            old, new = best.engine, way.engine
            race = duel(partial(old.run, feed), partial(new.run, feed), runs=GATE_RUNS)
            told.append(f"{way} {race.after_ms:.2f} ms against {best} {race.before_ms:.2f} ms")
            if race.ratio < 1:
                best = way
        return best, f"{best.role}: {best}" + (f" ({'; '.join(told)})" if told else "")

    def single(self, role: str) -> dict[str, np.ndarray]:
        """Return one real input of the role."""
        return {name: rows[:1] for name, rows in self.samples.feeds(role)[0].items()}

    def _candidate(self, role: str, path: Path, recipe: Int8Recipe | None) -> Candidate:
        engine = OnnxRuntimeEngine(path, threads=self.threads)
        vectors = [engine.run(feed)["vector"] for feed in self.samples.feeds(role)]
        return Candidate(
            role=role, path=path, engine=engine, recipe=recipe, vectors=np.concatenate(vectors)
        )


def _materialise(graph: Path, out: Path) -> None:
    """Write the graph as plain ONNX in FP32: weights inside, casts and batch norms folded."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    model = onnx.load(out, load_external_data=False)
    load_external_data_for_model(model, str(graph.parent))  # what folding left outside
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.graph.value_info[:]
    onnx.save(model, out)
