"""From a checkpoint or its graphs to a bundle."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cir_rt.bundle import check_replaceable, staged, write_manifest
from cir_rt.calibration.gate import Duel, Gate, check, latency_gate
from cir_rt.compose import Composer, EngineComposer, WeightedComposer
from cir_rt.export.build.assembly import COMPOSE, assemble, write_compose
from cir_rt.export.build.backends import open_backend
from cir_rt.export.build.backends.sizes import BATCHES, rising
from cir_rt.export.build.calibration_set import CalibrationSet, calibration_set
from cir_rt.export.build.candidates import Candidate, reference
from cir_rt.export.build.choice import Choice, choose
from cir_rt.export.build.fingerprint import fingerprint
from cir_rt.export.build.graphs import graphs_of, reranker_of
from cir_rt.export.build.judge import Judge
from cir_rt.export.build.options import BuildOptions
from cir_rt.export.build.race import Race
from cir_rt.export.build.report import BuildReport
from cir_rt.export.build.reranker.forms import forms_in
from cir_rt.export.build.reranker.run import build_reranker
from cir_rt.export.build.standing import standing_engines
from cir_rt.export.checkpoint import ENGINES, Checkpoint


def build_engine(
    model: Path,
    out: Path,
    options: BuildOptions,
    *,
    calibration: Path | None = None,
    reranker: Path | None = None,
    rerank: bool = True,
    progress: Callable[[str], None] | None = None,
) -> BuildReport:
    """Build, measure and write a bundle; nothing is written where a gate trips.

    `calibration` is a dataset or a folder of pictures, by default the dataset that the checkpoint
    carries. `reranker` is the re-ranker's checkpoint, beside a model that is a checkpoint too;
    exported graphs carry theirs, which without `rerank` is left out. Raises CheckpointError,
    DataError, BackendMissing, or GateError where the built engines lose more than a limit allows
    or, for a precision asked for by name, run slower than FP32 or than the bundle that they would
    replace.
    """
    start = time.perf_counter()
    check_replaceable(out)
    say = progress or (lambda stage: None)
    with tempfile.TemporaryDirectory(prefix="cir-rt-build-") as scratch_folder:
        scratch = Path(scratch_folder)
        say("graphs")
        graphs = graphs_of(model, reranker, scratch)
        second = reranker_of(graphs) if rerank else None
        if second:
            forms_in(options)
        inputs = calibration_set(graphs, calibration)
        build = _Build(graphs, inputs, options, scratch)
        say("candidates")
        choice = choose(build.fp32, build.backend, build.judge, build.race, options)
        say("gates")
        report, built = build.proven(choice, out), None
        if second:
            say("re-ranker")
            built = build_reranker(
                second, inputs, build.judge.pruned(), options, scratch=scratch, out=out
            )
            report = report.joined(built)
        say("bundle")
        quality = {**report.quality(), "threads": options.threads, "calibration": inputs.facts()}
        with staged(out) as folder:
            manifest = assemble(graphs, choice.chosen, build.backend, quality, folder, built)
            manifest = write_manifest(manifest, folder)
    size = sum(fact.size_bytes for fact in manifest.files.values())
    return replace(report, size_bytes=size, seconds=time.perf_counter() - start)


class _Build:
    """The FP32 engines of a model, and what measures others against them."""

    def __init__(
        self, graphs: Checkpoint, inputs: CalibrationSet, options: BuildOptions, scratch: Path
    ) -> None:
        exact: dict[str, Candidate] = {}
        for role in ENGINES[graphs.config.system]:
            if role == "compose":
                read = (exact[tower].vectors for tower in ("image", "text"))
                inputs = replace(inputs, samples=inputs.samples.paired(*read))
            feeds = inputs.samples.feeds(role)
            exact[role] = reference(role, graphs.folder, scratch, feeds, options.threads)
        self.graphs, self.inputs, self.options = graphs, inputs, options
        self.judge = Judge(graphs, _composer(graphs, exact, scratch), exact, inputs, options)
        self.race = Race(inputs.samples, tuple(exact))
        sizes = {"batch": BATCHES, "length": rising([graphs.config.context])}
        self.backend = open_backend(options, inputs.samples, scratch, sizes)
        self.fp32 = {role: self.backend.fp32(candidate) for role, candidate in exact.items()}

    def proven(self, choice: Choice, out: Path) -> BuildReport:
        """Hold the chosen engines to every gate. Raises GateError for one that is shut."""
        verdict = self.judge.verdict(choice.chosen)
        check(verdict.gates)
        latency, gates = self._raced(choice.chosen, out)
        if self.options.precision != "auto" and not self.options.keep_slower:
            check(gates)
        return BuildReport(
            bundle=out,
            options=self.options,
            precisions={role: c.precision for role, c in choice.chosen.items()},
            size_bytes=0,
            seconds=0.0,
            cosine_min=min(c.minimum for c in verdict.cosines.values()),
            recall_before=self.judge.before,
            recall_after=verdict.recall,
            recall_mixed=verdict.recall_mixed,
            agreement=verdict.agreement,
            gates=(*verdict.gates, *gates),
            latency=latency,
            frontier=choice.frontier,
            notes=[*self.inputs.notes(), *choice.notes],
        )

    def _raced(
        self, chosen: Mapping[str, Candidate], out: Path
    ) -> tuple[Duel | None, tuple[Gate, ...]]:
        """Race one query against FP32, and against the bundle that stands at `out`."""
        if not self.backend.timed:
            return None, ()
        new = {role: candidate.engine for role, candidate in chosen.items()}
        latency = self.race({role: c.engine for role, c in self.fp32.items()}, new)
        gates = []
        if any(chosen[role] is not self.fp32[role] for role in chosen):
            gates.append(latency_gate(latency, f"one query, {' and '.join(chosen)}"))
        old = standing_engines(out, fingerprint(self.graphs), chosen, self.options)
        if old:
            gates.append(latency_gate(self.race(old, new), f"one query, beside that of {out}"))
            for engine in old.values():
                engine.close()
        return latency, tuple(gates)


def _composer(graphs: Checkpoint, exact: Mapping[str, Candidate], scratch: Path) -> Composer:
    """Return the model's composition in FP32."""
    if "compose" in exact:
        return EngineComposer(exact["compose"].engine)
    write_compose(graphs, scratch / COMPOSE)
    return WeightedComposer.open(scratch / COMPOSE, graphs.config.temperature)
