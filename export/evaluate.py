"""Recall by a dataset's own protocol, for a checkpoint or a bundle alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cir_rt.bundle import is_bundle, open_bundle
from cir_rt.encoder import Encoder as BundleEncoder
from cir_rt.errors import BackendMissing, DataError, UsageError
from cir_rt.export.checkpoint import is_checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset, Split
from cir_rt.metrics import average_precision, recall, target_ranks

BLOCK = 512  # queries scored together: 60 MB of scores over the largest gallery, Fashion200K's


class Encoder(Protocol):
    """What is evaluated: pictures to vectors, and vectors with words to queries."""

    def encode_pictures(self, sources: Sequence[Path]) -> np.ndarray:
        """Return unit vectors (n, dim) float32."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return what is composed of texts, a float32 row each; over-long ones are cut."""

    def compose(
        self, v: np.ndarray, u: np.ndarray, weight: float | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return unit queries (n, dim) and weights (n, 2); `weight` replaces the gate's."""


@runtime_checkable
class QueryEncoder(Protocol):
    """What reads a caption beside its reference's picture, and has no vectors of words alone."""

    def encode_pictures(self, sources: Sequence[Path]) -> np.ndarray:
        """Return unit vectors (n, dim) float32."""

    def encode_queries(self, references: Sequence[Path], texts: Sequence[str]) -> np.ndarray:
        """Return unit queries (n, dim) float32; over-long texts are cut."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """A split encoded: the arrays that ranking, gates and calibration work on."""

    v: np.ndarray  # (queries, dim), references
    u: np.ndarray  # (queries, …), captions as composition reads them
    pictures: np.ndarray  # (pictures of the split, dim)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Some queries of one group, and how well each picture of its gallery answers them."""

    group: str
    queries: np.ndarray  # (n,) int64, their places in the split
    scores: np.ndarray  # (n, gallery of the group) float32, higher is better
    among: np.ndarray | None = None  # the same for ranking within subsets, where that differs


@dataclass(frozen=True, kw_only=True)
class Report:
    """Recall in percent, with the protocol that it belongs to."""

    dataset: str
    split: Split
    recall: dict[str, float]
    groups: dict[str, dict[str, float]]  # every measure, group by group
    mean: float
    subset: dict[str, float] = field(default_factory=dict)  # recall within CIRR's subsets
    precision: dict[str, float] = field(default_factory=dict)  # mean average precision
    rerank: int = 0  # candidates that a re-ranker put in a new order

    @property
    def measures(self) -> dict[str, float]:
        """Every measure of the protocol, averaged over the groups."""
        return {**self.recall, **self.subset, **self.precision}

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `cir-rt evaluate --json`; `subset` and `map` where measured."""
        extra = {"subset": self.subset, "map": self.precision}
        return {
            **facts(self.dataset, self.split),
            "rerank": self.rerank,
            "recall": self.recall,
            **{name: values for name, values in extra.items() if values},
            "groups": self.groups,
            "mean": self.mean,
        }


def facts(dataset: str, split: Split) -> dict[str, Any]:
    """Return what was asked, as JSON: dataset, split, protocol and sizes."""
    return {
        "dataset": dataset,
        "split": split.name,
        "protocol": str(split.protocol),
        "queries": len(split.queries),
        "gallery": sum(map(len, split.galleries.values())),
    }


def open_model(
    model: Path, device: str = "cpu", threads: int | None = None
) -> Encoder | QueryEncoder:
    """Open a bundle, or a checkpoint in PyTorch. Raises DataError for a folder that is neither."""
    if is_bundle(model):
        return BundleEncoder.open(open_bundle(model), device=device, threads=threads)
    if not is_checkpoint(model):
        raise DataError(f"{model}: neither a bundle nor a checkpoint.")
    try:
        from cir_rt.export.models.encoder import open_encoder
    except ImportError as error:
        raise BackendMissing(
            f"{model} is a checkpoint; evaluating it needs torch. Install it:  "
            "pip install 'cir-rt[export]'"
        ) from error
    return open_encoder(open_checkpoint(model), device=device, threads=threads)


def encode(encoder: Encoder, dataset: Dataset, split: Split) -> Vectors:
    """Encode a split's pictures and captions. Raises DataError for missing pictures."""
    pictures = encoder.encode_pictures(dataset.paths(split.pictures))
    row = {picture: k for k, picture in enumerate(split.pictures)}
    return Vectors(
        v=pictures[[row[q.reference] for q in split.queries]],
        u=encoder.encode_texts([q.text for q in split.queries]),
        pictures=pictures,
    )


def evaluate(
    encoder: Encoder | QueryEncoder, dataset: Dataset, split: Split, *, weight: float | None = None
) -> Report:
    """Encode and score a split; `weight` 1 asks with the picture alone, 0 with the words alone.

    Raises DataError, before anything is encoded, for missing pictures and unpublished targets.
    """
    check_labelled(dataset.name, split)
    return report(ask(encoder, dataset, split, weight=weight), dataset.name, split)


def check_labelled(dataset: str, split: Split) -> None:
    """Raise DataError for a split whose right answers are not published."""
    if not split.labelled:
        served = all(query.key for query in split.queries)
        way = "write what its server counts:  --submission DIR" if served else "choose another."
        raise DataError(f"{dataset} {split.name}: its right answers are not published; {way}")


def ask(
    encoder: Encoder | QueryEncoder,
    dataset: Dataset,
    split: Split,
    *,
    weight: float | None = None,
) -> Iterator[Scored]:
    """Encode a split and score every query, as `evaluate` does, with or without known targets.

    Raises UsageError where `weight` is given to a system that has none.
    """
    if isinstance(encoder, QueryEncoder):
        if weight is not None:
            raise UsageError("weight: stage I of re-ranking reads both together. Leave it out.")
        references = dataset.paths(q.reference for q in split.queries)
        asked = encoder.encode_queries(references, [q.text for q in split.queries])
        pictures = encoder.encode_pictures(dataset.paths(split.pictures))
        return products(asked, pictures, split)
    vectors = encode(encoder, dataset, split)
    queries, _ = encoder.compose(vectors.v, vectors.u, weight)
    return products(queries, vectors.pictures, split)


def score(queries: np.ndarray, pictures: np.ndarray, dataset: str, split: Split) -> Report:
    """Report on unit vectors: (queries, dim), and (pictures of the split, dim)."""
    return report(products(queries, pictures, split), dataset, split)


def products(queries: np.ndarray, pictures: np.ndarray, split: Split) -> Iterator[Scored]:
    """Yield the inner products of each group's queries with its gallery, block by block."""
    row = {picture: k for k, picture in enumerate(split.pictures)}
    for group, gallery in split.galleries.items():
        members = [k for k, q in enumerate(split.queries) if q.group == group]
        ranked = pictures[[row[i] for i in gallery]]
        for start in range(0, len(members), BLOCK):
            block = np.asarray(members[start : start + BLOCK], np.int64)
            yield Scored(group=group, queries=block, scores=queries[block] @ ranked.T)


def report(scored: Iterable[Scored], dataset: str, split: Split, *, rerank: int = 0) -> Report:
    """Hold scores against the targets; a measure's overall figure is the groups' average.

    Scores may come from anywhere, in blocks of any size, every query once. `rerank` is told on.
    Raises DataError for a split whose targets are not published.
    """
    check_labelled(dataset, split)
    protocol = split.protocol
    blocks: dict[str, list[dict[str, np.ndarray]]] = {}
    for block in scored:
        blocks.setdefault(block.group, []).append(_placed(block, split))
    groups = {g: _measures(blocks[g], split) for g in split.galleries if g in blocks}
    overall = {
        name: round(float(np.mean([g[name] for g in groups.values()])), 2)
        for name in next(iter(groups.values()))
    }
    return Report(
        dataset=dataset,
        split=split,
        recall={f"R@{k}": overall[f"R@{k}"] for k in protocol.ks},
        subset={f"Rs@{k}": overall[f"Rs@{k}"] for k in protocol.subset_ks},
        precision={f"mAP@{k}": overall[f"mAP@{k}"] for k in protocol.precision_ks},
        groups=groups,
        mean=round(float(np.mean([overall[name] for name in protocol.mean_of])), 2),
        rerank=rerank,
    )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where in their gallery a block's queries have what their ranking turns on."""

    targets: list[list[int]]
    removed: list[int | None]  # the reference, where the protocol leaves it out
    subset: list[list[int]]

    @classmethod
    def of(cls, block: Scored, split: Split) -> Columns:
        """Look the pictures of a block's queries up; those outside the gallery have no column."""
        place = {picture: k for k, picture in enumerate(split.galleries[block.group])}
        queries = [split.queries[k] for k in block.queries]
        kept = split.protocol.keep_reference
        return cls(
            targets=[[place[t] for t in q.targets if t in place] for q in queries],
            removed=[None if kept else place.get(q.reference) for q in queries],
            subset=[[place[i] for i in q.subset if i in place] for q in queries],
        )


def _placed(block: Scored, split: Split) -> dict[str, np.ndarray]:
    """Return each query's ranks "R" and "Rs", and its precision by the measure's name, (n,)."""
    columns, protocol = Columns.of(block, split), split.protocol
    targets, removed = columns.targets, columns.removed
    placed = {"R": target_ranks(block.scores, targets, removed=removed)}
    if protocol.subset_ks:
        among = block.scores if block.among is None else block.among
        placed["Rs"] = target_ranks(among, targets, removed=removed, among=columns.subset)
    for k in protocol.precision_ks:
        placed[f"mAP@{k}"] = average_precision(block.scores, targets, k, removed=removed)
    return placed


def _measures(blocks: list[dict[str, np.ndarray]], split: Split) -> dict[str, float]:
    """Return one group's measures in percent."""
    placed = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    ranks = placed.pop("R"), placed.pop("Rs", np.empty(0))
    measures = recall(ranks[0], split.protocol.ks)
    measures |= recall(ranks[1], split.protocol.subset_ks, name="Rs")
    return measures | {name: round(100 * float(p.mean()), 2) for name, p in placed.items()}
