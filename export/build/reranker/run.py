"""A re-ranker, from its graphs to what a bundle holds of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from cir_rt.buckets import bucket_lengths
from cir_rt.bundle import RerankSettings, is_bundle, open_bundle, sha256
from cir_rt.calibration.gate import Gate, check, latency_gate, recall_drop
from cir_rt.calibration.margin import find_margin
from cir_rt.calibration.samples import Samples
from cir_rt.cascade import survivors
from cir_rt.engines.plan import Range
from cir_rt.errors import CirRtError
from cir_rt.export.build.backends import open_backend
from cir_rt.export.build.backends.protocol import Backend
from cir_rt.export.build.backends.sizes import BATCHES, rising
from cir_rt.export.build.calibration_set import CalibrationSet
from cir_rt.export.build.candidates import Candidate, measured, reference
from cir_rt.export.build.fingerprint import fingerprint
from cir_rt.export.build.frontier import Point
from cir_rt.export.build.options import BuildOptions
from cir_rt.export.build.race import Race
from cir_rt.export.build.reranker.choice import RerankChoice, choose_way, image_engines
from cir_rt.export.build.reranker.forms import PLAIN, forms_in, open_form
from cir_rt.export.build.reranker.judge import RerankJudge, RerankVerdict, Way
from cir_rt.export.build.reranker.race import RerankRace
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.evaluate import Scored
from cir_rt.export.rewrites.merge import merge_tokens
from cir_rt.export.rewrites.weights import RerankWeights
from cir_rt.export.runtime_scorer import RuntimeScorer

IMAGE = "rerank_image"


@dataclass(frozen=True, kw_only=True)
class BuiltReranker:
    """What goes into the bundle, and what it was measured at."""

    graphs: Checkpoint
    fingerprint: str  # of a gallery's tokens
    way: Way
    backend: Backend
    settings: RerankSettings
    gates: tuple[Gate, ...]
    quality: dict[str, Any]
    frontier: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def roles(self) -> tuple[str, ...]:
        """The form's roles that are served; the cascade's where it has a margin."""
        cascade = ("rerank_early", "rerank_late") if self.settings.margin is not None else ()
        return ("rerank_query", "rerank", *cascade)

    @property
    def precisions(self) -> dict[str, str]:
        """Each engine's precision by role."""
        return {IMAGE: self.way.image.precision} | dict.fromkeys(
            self.roles, self.way.form.precision
        )


def build_reranker(
    graphs: Checkpoint,
    calibration: CalibrationSet,
    pruned: Sequence[Scored],
    options: BuildOptions,
    *,
    scratch: Path,
    out: Path,
) -> BuiltReranker:
    """Choose the re-ranker's engines and hold them to every gate.

    `graphs` are the re-ranker's own, `pruned` the FP32 towers' scores of the held-back queries.
    Raises DataError without captions, GateError for a gate that is shut.
    """
    return _Build(graphs, calibration, pruned, options, scratch).proven(out)


class _Build:
    """A re-ranker's engines in FP32, and what measures others against them."""

    def __init__(
        self,
        graphs: Checkpoint,
        calibration: CalibrationSet,
        pruned: Sequence[Scored],
        options: BuildOptions,
        scratch: Path,
    ) -> None:
        self.graphs, self.options = graphs, options
        samples = calibration.samples_of(graphs)
        exact = reference(IMAGE, graphs.folder, scratch, samples.feeds(IMAGE), options.threads)
        indexer = _merged(exact, samples, scratch, options)
        places, width = indexer.engine.outputs[0].shape[1:]
        self.settings = RerankSettings(
            places=places, width=width, prune_weight=options.prune_weight
        )
        self.fingerprint = fingerprint(graphs, merged=None if indexer is exact else places)
        sizes = {
            "batch": BATCHES,
            "candidates": rising(self.settings.buckets),
            "length": rising(bucket_lengths(graphs.config.context)),
            "places": (Range(minimum=places, optimum=places, maximum=places),),
        }
        self.backend = open_backend(options, samples, scratch, sizes)
        self.images = image_engines(indexer, self.backend, Race(samples, (IMAGE,)), options)
        whole = open_form(graphs, PLAIN, scratch, self._on_cpu, tokens="float")
        way = Way(form=whole, image=exact)
        self.judge = RerankJudge(graphs, calibration, pruned, way, indexer, self.settings, options)
        self.race = RerankRace(self.judge, self.settings) if self.backend.timed else None
        names = dict.fromkeys([PLAIN, *forms_in(options)])
        self.forms = {name: open_form(graphs, name, scratch, self.backend.opened) for name in names}

    def proven(self, out: Path) -> BuiltReranker:
        """Choose a way and hold it to every gate."""
        allowed = [self.forms[name] for name in forms_in(self.options)]
        choice = choose_way(self.forms[PLAIN], allowed, self.images, self.judge, self.race)
        verdict = self.judge.verdict(choice.way)
        check(verdict.gates)
        gates = self._latency_gates(choice, out)
        if self.options.precision != "auto" and not self.options.keep_slower:
            check(gates)
        settings, cascade, notes = self._cascade(choice.way)
        return BuiltReranker(
            graphs=self.graphs,
            fingerprint=self.fingerprint,
            way=choice.way,
            backend=self.backend,
            settings=settings,
            gates=(*verdict.gates, *gates),
            quality={**self._quality(verdict, choice), "cascade": cascade},
            frontier=choice.frontier,
            notes=[*choice.notes, f"rerank: {choice.way}", *self._worth(verdict), *notes],
        )

    def _on_cpu(self, role: str, path: Path, precision: str) -> Candidate:
        return measured(role, path, (), self.options.threads, precision)

    def _latency_gates(self, choice: RerankChoice, out: Path) -> tuple[Gate, ...]:
        """Hold the way against the plain form, and against the bundle that stands at `out`."""
        gates = []
        if choice.duel:
            gates.append(latency_gate(choice.duel, "one query re-ranked"))
        old = _standing(out, choice.way, self.fingerprint, self.options) if self.race else None
        if old and self.race:
            run = self.race.against(old, choice.way)
            gates.append(latency_gate(run, f"one query re-ranked, beside that of {out}"))
            old.close()
        return tuple(gates)

    def _cascade(self, way: Way) -> tuple[RerankSettings, dict[str, Any] | None, list[str]]:
        """Find the margin of the way's cascade; without an early head, or a gain, there is none."""
        if not way.form.cascades:
            return self.settings, None, []
        whole, early = self.judge.scores(way), self.judge.early_scores(way)
        found = find_margin(
            early,
            whole,
            least=self.settings.least,
            loss=lambda scores: self.judge.lost(scores, whole),
            limit=self.judge.limit,
        )
        settings = replace(self.settings, margin=found.margin)
        told, run = f"rerank: fast, {found.share:.0%} of the candidates at full depth", None
        if self.race:
            shares = [survivors(row, found.margin, settings.least).mean() for row in early]
            usual = int(np.abs(np.asarray(shares) - found.share).argmin())
            run = self.race.cascade(way, settings, usual)
            told += f": {run.after_ms:.2f} ms against exact {run.before_ms:.2f} ms"
        if not (run.won if run else found.share < 1):
            return self.settings, None, [f"{told}: no gain, left out"]
        facts = {
            "early_layers": RerankWeights.read(self.graphs).early_layers,
            "margin": round(found.margin, 5),
            "least": settings.least,
            "share": round(found.share, 4),
            "lost": round(found.lost, 2),
            "latency_ms": {
                "exact": run and round(run.before_ms, 3),
                "fast": run and round(run.after_ms, 3),
            },
        }
        return settings, facts, [told]

    def _worth(self, verdict: RerankVerdict) -> list[str]:
        """Say so where candidates stood better before they were re-ranked."""
        lost = recall_drop(self.judge.pruned, verdict.recall)
        if lost <= 0:
            return []
        return [
            f"rerank: on the held-back queries recall falls by up to {lost:.2f} points against "
            "pruning alone. They may be ones that were trained on: compare on others, "
            "cir-rt evaluate BUNDLE --data DATA  with and without  --rerank 0"
        ]

    def _quality(self, verdict: RerankVerdict, choice: RerankChoice) -> dict[str, Any]:
        """Return what was measured, by the names that the manifest gives it."""
        per_candidate = self.race.buckets(choice.way) if self.race else {}
        return {
            "form": choice.way.form.name,
            "candidates": self.judge.count,
            "recall_pruned": self.judge.pruned,
            "recall_before": self.judge.before,
            "recall_after": verdict.recall,
            "recall_mixed": verdict.recall_mixed,
            "agreement_top10": round(verdict.agreement, 2),
            "latency_ms": {
                side: None if ms is None else round(ms, 3) for side, ms in choice.latency_ms.items()
            },
            "ms_per_candidate": {str(k): round(ms, 4) for k, ms in per_candidate.items()},
        }


def _merged(exact: Candidate, samples: Samples, scratch: Path, options: BuildOptions) -> Candidate:
    """Return the image engine with no more tokens a picture than the options let a gallery keep."""
    if exact.engine.outputs[0].shape[1] <= options.tokens:
        return exact
    path = scratch / f"{IMAGE}.merged.onnx"
    onnx.save(merge_tokens(onnx.load(exact.path), options.tokens), path)
    return measured(IMAGE, path, samples.feeds(IMAGE), options.threads)


def _standing(folder: Path, way: Way, tokens: str, options: BuildOptions) -> RuntimeScorer | None:
    """Return the re-ranker of a bundle of the same model that stands there and opens here.

    None where its graph is the chosen one byte for byte.
    """
    if not is_bundle(folder):
        return None
    try:
        bundle = open_bundle(folder)
        if bundle.manifest.fingerprints.tokens != tokens:
            return None
        if sha256(bundle.path(bundle.role("rerank").file)) == sha256(way.form.parts["rerank"].path):
            return None
        return RuntimeScorer.open(bundle, device=options.device, threads=options.threads)
    except CirRtError:
        return None
