"""Recall by a dataset's own protocol, for a checkpoint or a bundle alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cir_rt.bundle import is_bundle, open_bundle
from cir_rt.encoder import Encoder as BundleEncoder
from cir_rt.errors import BackendMissing, DataError
from cir_rt.export.checkpoint import is_checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset, Query, Split
from cir_rt.metrics import recall, target_ranks


class Encoder(Protocol):
    """What is evaluated: pictures to vectors, and vectors with words to queries."""

    def encode_pictures(self, sources: Sequence[Path]) -> np.ndarray:
        """Return unit vectors (n, dim) float32."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, dim) float32; over-long texts are cut."""

    def compose(
        self, v: np.ndarray, u: np.ndarray, weight: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return unit queries (n, dim) and weights (n, 2); `weight` replaces the gate's."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """A split encoded: the arrays that ranking, gates and calibration work on."""

    v: np.ndarray  # (queries, dim), references
    u: np.ndarray  # (queries, dim), captions
    pictures: np.ndarray  # (pictures of the split, dim)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Recall in percent, with the protocol that it belongs to."""

    dataset: str
    split: Split
    recall: dict[str, float]
    groups: dict[str, dict[str, float]]
    mean: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `cir-rt evaluate --json`."""
        return {
            "dataset": self.dataset,
            "split": self.split.name,
            "protocol": str(self.split.protocol),
            "queries": len(self.split.queries),
            "gallery": sum(map(len, self.split.galleries.values())),
            "rerank": 0,
            "recall": self.recall,
            "groups": self.groups,
            "mean": self.mean,
        }


def open_model(model: Path, device: str = "cpu", threads: int | None = None) -> Encoder:
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
    encoder: Encoder, dataset: Dataset, split: Split, *, weight: float | None = None
) -> Report:
    """Encode and score a split; `weight` 1 asks with the picture alone, 0 with the words alone."""
    vectors = encode(encoder, dataset, split)
    queries, _ = encoder.compose(vectors.v, vectors.u, weight)
    return score(queries, vectors.pictures, dataset.name, split)


def score(queries: np.ndarray, pictures: np.ndarray, dataset: str, split: Split) -> Report:
    """Rank every group's gallery for its queries; the overall recall is the groups' average."""
    protocol = split.protocol
    row = {picture: k for k, picture in enumerate(split.pictures)}
    groups: dict[str, dict[str, float]] = {}
    for group, gallery in split.galleries.items():
        members = [k for k, q in enumerate(split.queries) if q.group == group]
        scores = queries[members] @ pictures[[row[i] for i in gallery]].T  # (members, gallery)
        ranks = _ranks(
            scores, [split.queries[k] for k in members], gallery, protocol.keep_reference
        )
        groups[group] = recall(ranks, protocol.ks)
    names = [f"R@{k}" for k in protocol.ks]
    overall = {n: round(float(np.mean([g[n] for g in groups.values()])), 2) for n in names}
    mean = round(float(np.mean([overall[f"R@{k}"] for k in protocol.mean_of])), 2)
    return Report(dataset=dataset, split=split, recall=overall, groups=groups, mean=mean)


def _ranks(
    scores: np.ndarray, queries: list[Query], gallery: tuple[str, ...], keep_reference: bool
) -> np.ndarray:
    place = {picture: k for k, picture in enumerate(gallery)}
    targets = [[place[t] for t in q.targets if t in place] for q in queries]
    removed = None if keep_reference else [place.get(q.reference) for q in queries]
    return target_ranks(scores, targets, removed=removed)
