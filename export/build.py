"""From a checkpoint or its graphs to a bundle; torch only where graphs are missing."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from cir_rt.bundle import (
    Fingerprints,
    Manifest,
    Role,
    Target,
    TextInput,
    check_replaceable,
    sha256,
    staged,
    write_manifest,
)
from cir_rt.calibration.gate import (
    Cosines,
    Duel,
    check_latency,
    check_recall,
    cosines,
    duel,
    recall_drop,
)
from cir_rt.compose import WeightedComposer
from cir_rt.config import to_dict
from cir_rt.encoder import Encoder
from cir_rt.errors import BackendMissing, CheckpointError, DataError, UsageError
from cir_rt.export.candidates import GATE_RUNS, Candidate, Candidates
from cir_rt.export.checkpoint import CALIBRATION, TOKENIZER, Checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset, Split
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.evaluate import Vectors, encode, score
from cir_rt.export.samples import read_samples
from cir_rt.machine import instruction_set, versions

ENGINES = ("image", "text")
PRECISIONS = ("fp32", "int8", "auto")
COMPOSE = "compose.safetensors"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What `cir-rt build-engine` may be told."""

    backend: str = "onnxruntime"
    device: str = "cpu"
    precision: str = "auto"
    max_recall_drop: float = 0.5  # points
    keep_slower: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.backend != "onnxruntime":
            raise BackendMissing(f"backend '{self.backend}' is not known. Expected: onnxruntime.")
        if self.device != "cpu":
            raise BackendMissing(f"device '{self.device}' cannot be built for. Expected: cpu.")
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"precision '{self.precision}' is not known. Expected: {', '.join(PRECISIONS)}."
            )


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was built, and what it was measured at."""

    bundle: Path
    options: BuildOptions
    precisions: dict[str, str]
    size_bytes: int
    seconds: float
    cosine_min: float
    recall_before: dict[str, float]
    recall_after: dict[str, float]
    recall_mixed: dict[str, float]  # built queries against an FP32 gallery
    latency: Duel
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `cir-rt build-engine --json`."""
        return {
            "bundle": str(self.bundle),
            "backend": self.options.backend,
            "device": self.options.device,
            "precision": self.options.precision,
            "precisions": self.precisions,
            "size_bytes": self.size_bytes,
            "seconds": round(self.seconds, 2),
            "quality": {
                "cosine_min": round(self.cosine_min, 5),
                "recall_before": self.recall_before,
                "recall_after": self.recall_after,
                "recall_mixed": self.recall_mixed,
            },
            "latency_ms": {
                "before": round(self.latency.before_ms, 3),
                "after": round(self.latency.after_ms, 3),
            },
        }


def build_engine(
    model: Path,
    out: Path,
    options: BuildOptions,
    *,
    calibration: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> BuildReport:
    """Build, measure and write a bundle; nothing is written where a gate trips.

    `calibration` is a dataset folder, by default the one that the checkpoint carries. Raises
    CheckpointError, DataError, or GateError where the built engines lose more recall than the
    limit or, for a precision asked for by name, run slower than FP32.
    """
    start = time.perf_counter()
    check_replaceable(out)
    say = progress or (lambda stage: None)
    with tempfile.TemporaryDirectory(prefix="cir-rt-build-") as scratch:
        say("graphs")
        graphs = _graphs(model, Path(scratch))
        dataset = _calibration_dataset(graphs, calibration)
        workbench = _Workbench(graphs, dataset, options, Path(scratch))
        say("candidates")
        chosen, notes = workbench.choose()
        say("gates")
        report = workbench.measure(chosen, out, notes)
        say("bundle")
        with staged(out) as folder:
            manifest = write_manifest(workbench.manifest(chosen, report, folder), folder)
    size = sum(fact.size_bytes for fact in manifest.files.values())
    return replace(report, size_bytes=size, seconds=time.perf_counter() - start)


def _graphs(model: Path, scratch: Path) -> Checkpoint:
    """Return the graphs folder of a model, exporting a checkpoint that has none (needs torch)."""
    checkpoint = open_checkpoint(model)
    if checkpoint.config.weights_sha256 not in ("", sha256(checkpoint.weights)):
        raise CheckpointError(
            f"{checkpoint.weights}: altered since config.json was written. The graphs point into "
            "it by offset; export them again:  cir-rt export CKPT --out GRAPHS"
        )
    if all((model / f"{role}.onnx").exists() for role in ENGINES):
        return checkpoint
    try:
        from cir_rt.export.onnx_export import export_graphs
    except ImportError as error:
        raise BackendMissing(
            f"{model} is a checkpoint without graphs; exporting it needs torch. Install it:  "
            "pip install 'cir-rt[export]'  or elsewhere:  cir-rt export CKPT --out GRAPHS"
        ) from error
    export_graphs(checkpoint, scratch / "graphs")
    return open_checkpoint(scratch / "graphs")


def _calibration_dataset(graphs: Checkpoint, calibration: Path | None) -> Dataset:
    folder = calibration or graphs.folder / CALIBRATION
    if not folder.exists():
        raise DataError(
            f"{folder}: no calibration inputs. Name a dataset:  --calibration DIR  (a few hundred "
            "real pictures and captions; random data is not accepted)."
        )
    return open_dataset(folder)


class _Workbench:
    """Candidates of one build, and what was measured of them."""

    def __init__(
        self, graphs: Checkpoint, dataset: Dataset, options: BuildOptions, scratch: Path
    ) -> None:
        self.graphs = graphs
        self.dataset = dataset
        self.options = options
        self.scratch = scratch
        self.tokenizer = graphs.tokenizer()
        self.samples = read_samples(dataset, graphs.config.preprocess, self.tokenizer)
        if not len(self.samples.pixels) or not len(self.samples.ids):
            raise DataError(f"{dataset.folder}: has no pictures or no captions to calibrate with.")
        names = list(dataset.splits)
        self.split: Split = dataset.split("val" if "val" in names else names[-1])
        compose = {k: v for k, v in load_file(graphs.weights).items() if k.startswith("compose.")}
        save_file({k: v.astype(np.float32) for k, v in compose.items()}, scratch / COMPOSE)
        self.composer = WeightedComposer.open(scratch / COMPOSE, graphs.config.temperature)
        self.bench = Candidates(graphs.folder, self.samples, scratch, options.threads)
        self.fp32 = {role: self.bench.fp32(role) for role in ENGINES}
        self._before: Vectors | None = None

    def choose(self) -> tuple[dict[str, Candidate], list[str]]:
        """Pick each role's fastest engine; `auto` gives roles back to FP32 for the recall limit."""
        if self.options.precision == "fp32":
            return dict(self.fp32), []
        chosen, notes = {}, []
        for role in ENGINES:
            ways = self.bench.int8(self.fp32[role])
            if self.options.precision == "auto":
                ways = [self.fp32[role], *ways]
            if not ways:
                raise CheckpointError(f"{role}: the graph has nothing that INT8 could serve.")
            chosen[role], note = self.bench.fastest(ways)
            notes.append(note)
        if self.options.precision == "auto":
            notes += self._give_back(chosen)
        return chosen, notes

    def measure(self, chosen: dict[str, Candidate], out: Path, notes: list[str]) -> BuildReport:
        """Hold the chosen engines against FP32. Raises GateError over a limit."""
        before = self._scored(self._vectors_before())
        after, mixed = self._recalls(chosen)
        limit = self.options.max_recall_drop
        check_recall(before, after, limit, "quantized engines")
        check_recall(before, mixed, limit, "quantized queries on an FP32 gallery")
        race = duel(self._query(self.fp32), self._query(chosen), runs=GATE_RUNS)
        if self.options.precision == "int8" and not self.options.keep_slower:
            check_latency(race, "one query, image and text")
        agreement = [self._cosines(candidate) for candidate in chosen.values()]
        return BuildReport(
            bundle=out,
            options=self.options,
            precisions={role: c.precision for role, c in chosen.items()},
            size_bytes=0,
            seconds=0.0,
            cosine_min=min(c.minimum for c in agreement),
            recall_before=before,
            recall_after=after,
            recall_mixed=mixed,
            latency=race,
            notes=notes,
        )

    def manifest(self, chosen: dict[str, Candidate], report: BuildReport, folder: Path) -> Manifest:
        """Copy the bundle's files into `folder` and say what they are."""
        config = self.graphs.config
        (folder / "onnx").mkdir()
        shutil.copyfile(self.graphs.folder / TOKENIZER, folder / TOKENIZER)
        shutil.copyfile(self.scratch / COMPOSE, folder / COMPOSE)
        text = TextInput(tokenizer=TOKENIZER, context=config.context, pad_id=config.pad_id)
        roles = {}
        for role, candidate in chosen.items():
            file = f"onnx/{role}.onnx"
            shutil.copyfile(candidate.path, folder / file)
            roles[role] = Role(
                system=config.system,
                file=file,
                precision=candidate.precision,
                recipe=to_dict(candidate.recipe) if candidate.recipe else {},
                inputs=candidate.engine.inputs,
                outputs=candidate.engine.outputs,
                preprocess=config.preprocess if role == "image" else None,
                text=text if role == "text" else None,
            )
        roles["compose"] = Role(system=config.system, file=COMPOSE, temperature=config.temperature)
        return Manifest(
            target=Target(
                backend=self.options.backend,
                device=self.options.device,
                instruction_set=instruction_set(),
            ),
            dim=config.dim,
            fingerprints=Fingerprints(vectors=_fingerprint(self.graphs)),
            roles=roles,
            versions=versions("cir-rt", "onnxruntime", "onnx", "numpy", "Pillow", "tokenizers"),
            quality={
                **report.to_json()["quality"],
                "latency_ms": report.to_json()["latency_ms"],
                "threads": self.options.threads,
                "calibration": self._calibration_fact(),
            },
        )

    def _calibration_fact(self) -> dict[str, Any]:
        return {
            "pictures": len(self.samples.pixels),
            "captions": len(self.samples.ids),
            "sha256": self.samples.digest(),
            "gate_queries": len(self.split.queries),
            "gate_gallery": sum(map(len, self.split.galleries.values())),
        }

    def _give_back(self, chosen: dict[str, Candidate]) -> list[str]:
        """Return roles to FP32, the least faithful first, until the recall limit holds."""
        before = self._scored(self._vectors_before())
        notes = []
        for role in sorted(chosen, key=lambda r: self._cosines(chosen[r]).minimum):
            after, mixed = self._recalls(chosen)
            drop = max(recall_drop(before, after), recall_drop(before, mixed))
            if drop <= self.options.max_recall_drop:
                break
            if chosen[role].recipe:
                chosen[role] = self.fp32[role]
                notes.append(f"{role}: back to fp32, recall had fallen by {drop:.2f} points")
        return notes

    def _recalls(self, chosen: Mapping[str, Candidate]) -> tuple[dict[str, float], ...]:
        """Return recall on a gallery of the same engines, and on an FP32 gallery."""
        vectors = self._vectors(chosen)
        mixed = replace(vectors, pictures=self._vectors_before().pictures)
        return self._scored(vectors), self._scored(mixed)

    def _cosines(self, candidate: Candidate) -> Cosines:
        return cosines(self.fp32[candidate.role].vectors, candidate.vectors)

    def _query(self, chosen: Mapping[str, Candidate]) -> Callable[[], None]:
        feeds = [(chosen[role].engine, self.bench.single(role)) for role in ENGINES]

        def run() -> None:
            for engine, feed in feeds:
                engine.run(feed)

        return run

    def _vectors_before(self) -> Vectors:
        if self._before is None:
            self._before = self._vectors(self.fp32)
        return self._before

    def _vectors(self, chosen: Mapping[str, Candidate]) -> Vectors:
        encoder = Encoder(
            preprocess=self.graphs.config.preprocess,
            tokenizer=self.tokenizer,
            image=chosen["image"].engine,
            text=chosen["text"].engine,
            compose=self.composer,
        )
        return encode(encoder, self.dataset, self.split)

    def _scored(self, vectors: Vectors) -> dict[str, float]:
        queries, _ = self.composer(vectors.v, vectors.u)
        return score(queries, vectors.pictures, self.dataset.name, self.split).recall


def _fingerprint(graphs: Checkpoint) -> str:
    """Hash what fixes a gallery's vectors: the image tower's weights and the preprocessing."""
    digest = hashlib.sha256()
    settings = {
        "image": to_dict(graphs.config.image),
        "preprocess": to_dict(graphs.config.preprocess),
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(load_file(graphs.weights).items()):
        if name.startswith("image."):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()
