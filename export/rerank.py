"""Stage I's best candidates in the order of a re-ranker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from cir_rt.bundle import is_bundle, open_bundle
from cir_rt.errors import BackendMissing, UsageError
from cir_rt.export.checkpoint import open_checkpoint
from cir_rt.export.data.dataset import Dataset, Split
from cir_rt.export.evaluate import Columns, Scored
from cir_rt.export.runtime_scorer import RuntimeScorer

CANDIDATES = 50  # that a re-ranker's checkpoint puts in a new order, unless said
QUERIES = 64  # re-ranked together


class Scorer(Protocol):
    """What re-ranks: pictures to stored tokens, and queries with candidates to scores.

    A row stands for a picture's tokens; how they lie in it is the scorer's own.
    """

    def read(self, sources: Sequence[Path]) -> np.ndarray:
        """Return the pictures' rows, (n, …)."""

    def score(
        self,
        reference: np.ndarray,
        texts: Sequence[str],
        candidates: np.ndarray,
        pruned: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """Return scores (n, k) of rows (n, …) with candidates' rows (n, k, …), higher is better.

        `pruned` (n, k) are the candidates' inner products, which may count for something.
        """


def open_scorer(
    model: Path,
    reranker: Path | None,
    *,
    prune_weight: float | None = None,
    mode: str,
    device: str,
    threads: int | None,
) -> tuple[Scorer, int] | None:
    """Open what re-ranks a model's candidates, and how many of them unless said.

    That is the `reranker`'s checkpoint, which needs torch, or else the one in a bundle; None where
    there is neither. Raises UsageError for a mode that it does not have, and for a `prune_weight`
    beside a bundle, which has its own.
    """
    if reranker is None:
        if prune_weight is not None:
            raise UsageError("prune-weight goes with --reranker: what a bundle has was built in.")
        bundle = open_bundle(model) if is_bundle(model) else None
        if bundle is None or bundle.manifest.rerank is None:
            return None
        scorer = RuntimeScorer.open(bundle, mode=mode, device=device, threads=threads)
        return scorer, bundle.manifest.rerank.candidates
    if mode != "exact":
        raise UsageError(f"mode is {mode}, but a checkpoint has no cascade. Build a bundle of it.")
    try:
        from cir_rt.export.models.scorer import open_scorer as open_checkpoint_scorer
    except ImportError as error:
        raise BackendMissing(
            f"{reranker} is a checkpoint; re-ranking with it needs torch. Install it:  "
            "pip install 'cir-rt[export]'"
        ) from error
    checkpoint = open_checkpoint(reranker)
    opened = open_checkpoint_scorer(
        checkpoint, prune_weight=prune_weight or 0.0, device=device, threads=threads
    )
    return opened, CANDIDATES


def reranked(
    scored: Iterable[Scored], scorer: Scorer, dataset: Dataset, split: Split, k: int
) -> Iterator[Scored]:
    """Yield the scores with each query's k best raised above the rest, in the re-ranker's order.

    Below them stage I's order stays. A reference that the protocol removes is no candidate. A
    query's own subset is scored whole, whatever its members' ranks (CIRR).

    All pictures' tokens are read once and held as the scorer stores them.
    """
    row = {picture: place for place, picture in enumerate(split.pictures)}
    tokens = scorer.read(dataset.paths(split.pictures))
    for block in scored:
        gallery = np.asarray([row[i] for i in split.galleries[block.group]])
        columns = Columns.of(block, split)
        best = best_columns(block, columns, k)
        scores = block.scores.copy()
        among = scores.copy() if split.protocol.subset_ks else None
        for start in range(0, len(scores), QUERIES):
            rows = range(start, min(start + QUERIES, len(scores)))
            asked = [split.queries[int(block.queries[n])] for n in rows]
            reference = tokens[[row[q.reference] for q in asked]]
            texts = [q.text for q in asked]

            pruned = block.scores[rows.start : rows.stop]

            def judge(found: np.ndarray) -> np.ndarray:
                near = np.take_along_axis(pruned, found, axis=1)  # noqa: B023
                return scorer.score(reference, texts, tokens[gallery[found]], near)  # noqa: B023

            found = best[rows.start : rows.stop]
            raise_columns(scores[rows.start : rows.stop], found, judge(found))
            if among is not None:
                members = np.asarray([columns.subset[n] for n in rows])
                raise_columns(among[rows.start : rows.stop], members, judge(members))
        yield replace(block, scores=scores, among=among)


def best_columns(block: Scored, columns: Columns, k: int) -> np.ndarray:
    """Return each query's k best, best first, (n, k); equal scores by column.

    A reference that the protocol removes stands behind all others.
    """
    scores = block.scores.copy()
    for n, removed in enumerate(columns.removed):
        if removed is not None:
            scores[n, removed] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def raise_columns(scores: np.ndarray, columns: np.ndarray, judged: np.ndarray) -> None:
    """Put some columns of each row above all others, in the order of their new scores."""
    order = np.argsort(np.argsort(-judged, axis=1, kind="stable"), axis=1)  # 0 is the best
    above = scores.max(axis=1, keepdims=True)
    np.put_along_axis(scores, columns, above + judged.shape[1] - order, axis=1)
