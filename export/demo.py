"""The tour: shipped graphs to bundle, gallery, answered queries, pictures to look at. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cir_rt.bundle import open_bundle
from cir_rt.encoder import Encoder
from cir_rt.export import pretrained
from cir_rt.export.build import BuildOptions, BuildReport, build_engine
from cir_rt.export.data.dataset import Dataset, Query, Split
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.data.garments import write
from cir_rt.export.evaluate import encode, products, report, score
from cir_rt.export.rerank import reranked
from cir_rt.export.runtime_scorer import RuntimeScorer
from cir_rt.gallery.indexing import IndexReport, Source
from cir_rt.percentile import percentile
from cir_rt.report import Answer, answer, contact_sheet, latency_plot
from cir_rt.retriever import Retriever

LOCATION = Path(next(iter(pretrained.__path__)))
PICTURES = 400  # of each article
QUERIES = 200
TIMED = 200
PRUNE_WEIGHT = 30  # of inner products beside the shipped re-ranker's scores, see pretrained/README
WAYS = {"picture and words": None, "picture alone": 1.0, "words alone": 0.0}


@dataclass(frozen=True, kw_only=True)
class Tour:
    """What the demo made and measured."""

    folder: Path
    build: BuildReport
    index: IndexReport
    recall: dict[str, dict[str, float]]  # way to ask -> recall
    queries: int
    pictures: int
    timings: dict[str, list[float]]  # stage -> milliseconds, a value per query
    pruned: dict[str, list[float]]  # the same without re-ranking; empty where there is none
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the tour's figures."""
        return {
            "folder": str(self.folder),
            "queries": self.queries,
            "gallery": self.pictures,
            "recall": self.recall,
            "stages": _percentiles(self.timings),
            "stages_pruned": _percentiles(self.pruned),
            "build": self.build.to_json(),
            "seconds": round(self.seconds, 1),
        }


def tour(out: Path, *, say: Callable[[str], None] = lambda stage: None) -> Tour:
    """Run the whole way on the built-in pictures and leave everything in `out`."""
    start = time.perf_counter()
    say("drawing the built-in pictures")
    write(out / "garments", pictures={"val": PICTURES}, queries={"val": QUERIES})
    dataset = open_dataset(out / "garments")
    split = dataset.split("val")
    say("building engines, FP32 and calibrated INT8")
    exact = out / "fp32.cir"
    build_engine(LOCATION, exact, BuildOptions(precision="fp32"), rerank=False)
    options = BuildOptions(prune_weight=PRUNE_WEIGHT)
    built = build_engine(LOCATION, out / "garments.cir", options)
    say("measuring recall")
    recall = {"fp32": _recall(exact, dataset, split, {"fp32": None})["fp32"]}
    recall |= _recall(out / "garments.cir", dataset, split, WAYS)
    say("indexing")
    with Retriever.open(out / "garments.cir") as retriever:
        indexed = retriever.index(sources(dataset, split), out / "garments.gallery")
    say("asking")
    with Retriever.open(out / "garments.cir", out / "garments.gallery") as retriever:
        some = split.queries[:: max(1, len(split.queries) // TIMED)]
        timings = timed(retriever, dataset, some)
        pruned = timed(retriever, dataset, some, rerank=0) if retriever.candidates else {}
        shown = [next(q for q in split.queries if q.group == group) for group in split.galleries]
        sheet = contact_sheet(answers(retriever, dataset, shown), "cir-rt: this one, but …")
    sheet.save(out / "contact-sheet.png")
    latency_plot(timings, out / "latency.png")
    return Tour(
        folder=out,
        build=built,
        index=indexed,
        recall=recall,
        queries=len(split.queries),
        pictures=len(split.pictures),
        timings=timings,
        pruned=pruned,
        seconds=time.perf_counter() - start,
    )


def sources(dataset: Dataset, split: Split) -> list[Source]:
    """Return every picture of the split's galleries as something to index."""
    ids = list(dict.fromkeys(i for gallery in split.galleries.values() for i in gallery))
    return [Source(id=i, path=p) for i, p in zip(ids, dataset.paths(ids), strict=True)]


def answers(
    retriever: Retriever, dataset: Dataset, queries: Sequence[Query], k: int = 6
) -> list[Answer]:
    """Ask a dataset's queries and lay the answers out for a contact sheet."""
    return [
        answer(
            retriever,
            retriever.search(image=q.reference, text=q.text, k=k),
            retriever.thumbnail(q.reference),
            q.text,
            right=q.targets,
        )
        for q in queries
    ]


def timed(
    retriever: Retriever, dataset: Dataset, queries: Sequence[Query], rerank: int | None = None
) -> dict[str, list[float]]:
    """Ask each query with its picture as a file; return milliseconds by stage, after a warm-up."""
    paths = dataset.paths(q.reference for q in queries)
    for path, query in zip(paths[:10], queries[:10], strict=True):
        retriever.search(image=path, text=query.text, rerank=rerank)
    timings: dict[str, list[float]] = {}
    for path, query in zip(paths, queries, strict=True):
        hits = retriever.search(image=path, text=query.text, rerank=rerank)
        for stage, ms in hits.timing.items():
            timings.setdefault(stage, []).append(ms)
    return timings


def _percentiles(timings: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {
        name: {f"p{q}_ms": round(percentile(values, q), 3) for q in (50, 90, 99)}
        for name, values in timings.items()
    }


def _recall(
    bundle: Path, dataset: Dataset, split: Split, ways: Mapping[str, float | None]
) -> dict[str, dict[str, float]]:
    """Return the split's recall for each way to ask, a name and the picture's weight.

    The first way's best candidates are re-ranked too, where the bundle does that.
    """
    opened = open_bundle(bundle)
    encoder, settings = Encoder.open(opened), opened.manifest.rerank
    vectors = encode(encoder, dataset, split)
    asked = {name: encoder.compose(vectors.v, vectors.u, w)[0] for name, w in ways.items()}
    found = {
        name: score(queries, vectors.pictures, dataset.name, split).recall
        for name, queries in asked.items()
    }
    if settings:
        k = settings.candidates
        scored = products(asked[next(iter(ways))], vectors.pictures, split)
        best = reranked(scored, RuntimeScorer.open(opened), dataset, split, k)
        found[f"both, best {k} re-ranked"] = report(best, dataset.name, split, rerank=k).recall
    return found
