"""Re-ranking side by side: eager PyTorch, torch.compile, ONNX Runtime FP32, and cir-rt's engines.

    python benchmarks/versus.py --candidates 50 --threads 2 --record

All sides answer the same query, from word pieces and tokens to the scores of all candidates, in
turns. `eager` and `compile` are the module as published. `ort_fp32` is its plain form in ONNX
Runtime. `exact` is the form named by --form on INT8 tokens, all places of a picture. `fast` reads
--tokens of them, merged when a picture is indexed; then the early layers drop candidates, and a
--share goes the full depth. Weights are random unless --reranker names a checkpoint, and time does
not depend on them: the share has to come from a trained model, and `fast_whole_ms` says beside it
what all candidates at the full depth cost. On --device cuda everything is FP16, `exact` and `fast`
replay CUDA graphs, and both read the form --form without its -int8. Multiplications a query and a
second stand beside the times; on a GPU also their share of --peak.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import arithmetic
import click
import numpy as np
import onnx
import torch
from recording import RESULTS, keep
from torch import nn

from cir_rt.calibration.half import to_half
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.export.checkpoint import open_checkpoint
from cir_rt.export.models.prune import Prune
from cir_rt.export.models.reranker import Reranker
from cir_rt.export.models.shapes import PruneConfig
from cir_rt.export.models.storage import load_reranker
from cir_rt.export.models.systems import RerankModel
from cir_rt.export.rewrites.forms import CARRIED, FORMS, write_rerank_graphs
from cir_rt.export.rewrites.merge import merging
from cir_rt.gallery.rowformat import RowFormat
from cir_rt.machine import environment

ASSUMED_SHARE = 0.3  # of the candidates, until a trained model's is recorded
NAMES = ("eager", "compile", "ort_fp32", "exact", "fast", "fast_whole")
STORED = {"tokens": "codes", "scales": "scales"}  # an engine's input -> a stored row's part
Side = Callable[[], np.ndarray]

SHARES = RESULTS / "cascade.json"  # {"share": …}, what a trained model needs for 0.5 points


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A re-ranker's shape, and its pictures'."""

    shape: PruneConfig
    places: int  # tokens of a picture
    fewer: int  # of them after merging
    early_layers: int


GEOMETRIES = {
    "blip-base": Geometry(shape=PruneConfig(), places=577, fewer=65, early_layers=3),
    "small": Geometry(
        shape=PruneConfig(
            vocabulary=2001, enc_id=2000, context=48, width=192, heads=4, layers=4, inner=768,
            image_width=256, eps=1e-5,
        ),
        places=26,
        fewer=10,
        early_layers=1,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared."""

    candidates: int
    bucket: int  # candidates in one run of an engine
    length: int  # of the caption, in tokens
    tokens: int  # of a picture, for `fast`
    share: float
    form: str
    device: str
    threads: int
    runs: int
    peak: float | None  # TMAC/s of the device; None: measured on a GPU, unknown of a CPU


class Model(nn.Module):
    """Stage I's text encoder and stage II with random weights, named as in a checkpoint."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text = Prune(geometry.shape)
        self.rerank = Reranker.from_single(self.text.encoder, geometry.early_layers)


@click.command()
@click.option("--geometry", type=click.Choice(list(GEOMETRIES)), default="blip-base")
@click.option("--reranker", type=click.Path(path_type=Path), help="A trained one instead.")
@click.option("--candidates", default=50, show_default=True)
@click.option("--bucket", default=10, show_default=True, help="Candidates in a run of an engine.")
@click.option("--length", default=20, show_default=True, help="Tokens of the caption.")
@click.option("--tokens", type=int, help="Of a picture, for `fast`.  [default: 65 of 577]")
@click.option("--share", type=float, help="Of the candidates, that goes the full depth.")
@click.option("--form", type=click.Choice(list(FORMS)), default="absorbed-int8", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--runs", default=5, show_default=True, help="Of each side, after one that warms up.")
@click.option("--peak", type=float, help="The device's TMAC/s.  [default: a GPU's is measured]")
@click.option("--layers", type=int, help="Fewer for a trial.")
@click.option("--json", "as_json", is_flag=True, help="Print the result only.")
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
def main(
    geometry: str,
    reranker: Path | None,
    tokens: int | None,
    share: float | None,
    layers: int | None,
    as_json: bool,
    record: bool,
    **options: Any,
) -> None:
    """Time a re-ranked query in every form, in turns."""
    torch.set_num_threads(options["threads"])
    shape, model = opened(GEOMETRIES[geometry], reranker, layers)
    source, part = ("given", share) if share is not None else known_share()
    settings = Settings(tokens=tokens or shape.fewer, share=part, **options)
    with tempfile.TemporaryDirectory() as scratch:
        result = compare(model, shape.places, settings, Path(scratch), as_json)
    result |= asdict(settings) | {"share_is": source, "places": shape.places}
    result |= {"geometry": str(reranker or geometry), "environment": environment()}
    if record:
        name = reranker.name if reranker else geometry
        keep(f"versus-{name}-{settings.device}-{settings.candidates}", result)
    click.echo(json.dumps(result, indent=None if as_json else 2))


def known_share() -> tuple[str, float]:
    """Return the share of a trained model's candidates that go the full depth, if it is known."""
    if SHARES.exists():
        return "recorded", float(json.loads(SHARES.read_text(encoding="utf-8"))["share"])
    return "assumed", ASSUMED_SHARE


def opened(
    geometry: Geometry, reranker: Path | None, layers: int | None
) -> tuple[Geometry, RerankModel | Model]:
    """Return a geometry and its model with random weights, or a trained model and its geometry."""
    if reranker is not None:
        model: RerankModel = load_reranker(open_checkpoint(reranker))
        size = model.config.preprocess.size
        with torch.inference_mode():
            places = model.image.read(torch.zeros(1, 3, size, size)).tokens.shape[1]
        shape, early = model.text.encoder.config, model.rerank.early_layers
        return Geometry(shape=shape, places=places, fewer=places, early_layers=early), model
    if layers:
        shape, early = (
            replace(geometry.shape, layers=layers),
            min(geometry.early_layers, layers - 1),
        )
        geometry = replace(geometry, shape=shape, early_layers=early)
    return geometry, Model(geometry).eval()


def compare(
    model: RerankModel | Model, places: int, settings: Settings, scratch: Path, quiet: bool
) -> dict[str, Any]:
    """Return every side's milliseconds, and ratios over eager."""
    sides: dict[str, Side] = {}
    say("writing graphs", quiet)
    query = Query.random(model, places, settings)
    merged = query.merged(settings.tokens)
    sides["ort_fp32"] = whole(model, query, replace(settings, form="plain"), scratch / "plain")
    sides["exact"] = whole(model, query, settings, scratch / "exact")
    sides["fast_whole"] = whole(model, merged, settings, scratch / "fast")
    if model.rerank.early_layers:
        sides["fast"] = cascade(merged, settings, scratch / "fast")
    published = eager(model, query, settings)
    sides["eager"] = published
    sides["compile"], missing = compiled(published)
    if missing:
        del sides["compile"]
    say(f"timing {', '.join(sides)}", quiet)
    times = in_turns(sides, settings.runs)
    result: dict[str, Any] = {f"{name}_ms": None for name in NAMES}
    result |= {f"ratio_{name}": None for name in NAMES[1:]} | {"spread": {}}
    for name, taken in times.items():
        result[f"{name}_ms"] = round(statistics.median(taken), 2)
        if name != "eager":
            result[f"ratio_{name}"], result["spread"][name] = ratio(times["eager"], taken)
    per_candidate = {n: statistics.median(ms) / settings.candidates for n, ms in times.items()}
    result["per_candidate_ms"] = {name: round(ms, 3) for name, ms in per_candidate.items()}
    work = multiplied(published, places, settings, scratch)
    most = arithmetic.peak(settings.device, settings.peak)
    return result | {"compile_missing": missing} | arithmetic.pace(work, times, most)


def multiplied(
    published: Published, places: int, settings: Settings, scratch: Path
) -> dict[str, int]:
    """Return every side's multiply-accumulates of a query; `fast` is missing without a cascade."""
    work = dict.fromkeys(("eager", "compile"), arithmetic.of_module(published))
    kept = math.ceil(settings.share * settings.candidates)
    ways = {
        "ort_fp32": ("plain", places, None),
        "exact": ("exact", places, None),
        "fast_whole": ("fast", settings.tokens, None),
    }
    if (scratch / "fast" / "rerank_early.onnx").exists():
        ways["fast"] = ("fast", settings.tokens, kept)
    for name, (folder, count, deep) in ways.items():
        sizes = {"places": count, "length": settings.length}
        work[name] = arithmetic.of_query(scratch / folder, sizes, settings.candidates, deep)
    return work


def say(stage: str, quiet: bool) -> None:
    """Tell a person how far it is."""
    if not quiet:
        click.echo(f"… {stage}", err=True)


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query with its candidates' tokens."""

    ids: np.ndarray  # (1, length) int64
    reference: np.ndarray  # (1, places, width) float32
    candidates: np.ndarray  # (k, places, width) float32
    stored: np.ndarray  # the same as a gallery holds them, (k,) rows

    @classmethod
    def of(cls, ids: np.ndarray, tokens: np.ndarray) -> Query:
        """Take the reference's tokens and, behind them, the candidates'."""
        rows = RowFormat(precision="int8", shape=tokens.shape[1:])
        candidates = tokens[1:]
        return cls(
            ids=ids, reference=tokens[:1], candidates=candidates, stored=rows.encode(candidates)
        )

    @classmethod
    def random(cls, model: RerankModel | Model, places: int, settings: Settings) -> Query:
        """Draw word pieces and tokens."""
        rng, shape = np.random.default_rng(0), model.rerank.config
        ids = rng.integers(shape.pad_id + 1, shape.vocabulary, (1, settings.length))
        sizes = (1 + settings.candidates, places, shape.image_width)
        return cls.of(ids, rng.standard_normal(sizes, np.float32))

    def merged(self, fewer: int) -> Query:
        """Return the same with fewer tokens a picture."""
        tokens = np.concatenate([self.reference, self.candidates])
        if fewer == tokens.shape[1]:
            return self
        return Query.of(self.ids, merging(tokens.shape[1], fewer) @ tokens)

    def tokens(self, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
        """Return candidates as an engine takes them."""
        stored = self.stored[rows]
        return {name: np.ascontiguousarray(stored[key]) for name, key in STORED.items()}


def eager(model: RerankModel | Model, query: Query, settings: Settings) -> Published:
    """Return the module as published, on one batch of all candidates; FP16 on a GPU."""
    device = torch.device(settings.device)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    module = copy.deepcopy(model).to(device, dtype)
    arrays = query.reference, query.candidates[None]
    reference, candidates = (torch.from_numpy(x).to(device, dtype) for x in arrays)
    ids = torch.from_numpy(query.ids).to(device)
    return Published(module=module, inputs=(reference, ids, candidates))


@dataclass(kw_only=True)
class Published:
    """The module with its inputs; calling it waits for the scores."""

    module: Any
    inputs: tuple[torch.Tensor, ...]
    run: Callable[..., torch.Tensor] | None = None

    @torch.inference_mode()
    def __call__(self) -> np.ndarray:
        """Return the scores (1, k)."""
        return (self.run or self.scores)(*self.inputs).float().cpu().numpy()

    def scores(
        self, reference: torch.Tensor, ids: torch.Tensor, candidates: torch.Tensor
    ) -> torch.Tensor:
        """Compute stage I's reading, then stage II."""
        z = self.module.text.read(reference, ids)
        return self.module.rerank.pairs(z, ids, candidates)


def compiled(published: Published) -> tuple[Side, str | None]:
    """Return the module through torch.compile, or why there is none."""
    mode = "reduce-overhead" if published.inputs[0].is_cuda else None  # with CUDA graphs
    run = replace(published, run=torch.compile(published.scores, mode=mode, dynamic=False))
    try:
        run()
    except Exception as error:  # a compiler that is missing shows in many ways
        return run, f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    return run, None


def whole(model: RerankModel | Model, query: Query, settings: Settings, folder: Path) -> Side:
    """Return a form in engines, all candidates at the full depth; a cascade's graphs beside it."""
    folder.mkdir()
    gpu = settings.device != "cpu"
    form = settings.form.removesuffix("-int8") if gpu else settings.form
    early = bool(model.rerank.early_layers)
    paths = write_rerank_graphs(model, folder, form=form, early=early, tokens="int8")
    if gpu:
        for path in paths.values():
            onnx.save(to_half(onnx.load(path)), path)
    asked, rerank = (engine(folder, role, settings) for role in ("rerank_query", "rerank"))

    def ask() -> np.ndarray:
        state = asked.run({"ids": query.ids, "reference": query.reference})
        parts = [
            rerank.run({**state, **query.tokens(rows)})["scores"]
            for rows in buckets(settings.candidates, settings.bucket)
        ]
        return np.concatenate(parts)

    return ask


def cascade(query: Query, settings: Settings, folder: Path) -> Side:
    """Return the early layers on all candidates, the late ones on a share; graphs are there."""
    asked, early, late = (
        engine(folder, role, settings) for role in ("rerank_query", "rerank_early", "rerank_late")
    )
    kept = math.ceil(settings.share * settings.candidates)

    def ask() -> np.ndarray:
        state = asked.run({"ids": query.ids, "reference": query.reference})
        found = [
            early.run({**state, **query.tokens(rows)})
            for rows in buckets(settings.candidates, settings.bucket)
        ]
        all_of = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        best = np.argsort(-all_of["scores"], kind="stable")[:kept]
        parts = []
        for rows in buckets(kept, settings.bucket):
            carried = {name: all_of[name][best[rows]] for name in CARRIED}
            parts.append(late.run({**state, **query.tokens(best[rows]), **carried})["scores"])
        return np.concatenate(parts)

    return ask


def engine(folder: Path, role: str, settings: Settings) -> OnnxRuntimeEngine:
    """Open a graph in ONNX Runtime."""
    return OnnxRuntimeEngine(
        folder / f"{role}.onnx",
        device=settings.device,
        threads=settings.threads,
        graphs=settings.device != "cpu",
    )


def buckets(count: int, size: int) -> list[slice]:
    """Return the runs that so many candidates take."""
    return [slice(k, min(k + size, count)) for k in range(0, count, size)]


def in_turns(sides: Mapping[str, Side], runs: int) -> dict[str, list[float]]:
    """Return milliseconds of every side, one run of each after the other; the first warms up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(runs + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def ratio(before: list[float], after: list[float]) -> tuple[float, float]:
    """Return the ratio of medians, and half the middle half of the paired ratios as a share."""
    paired = sorted(b / a for b, a in zip(before, after, strict=True))
    middle = paired[len(paired) // 4], paired[3 * len(paired) // 4]
    found = statistics.median(before) / statistics.median(after)
    return round(found, 2), round((middle[1] - middle[0]) / 2 / found, 3)


if __name__ == "__main__":
    main()
