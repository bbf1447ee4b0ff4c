"""Stage I's best candidates in the order of a re-ranker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from cir_rt.export.data.dataset import Dataset, Split
from cir_rt.export.evaluate import Columns, Scored

QUERIES = 64  # re-ranked together


class Scorer(Protocol):
    """What re-ranks: pictures to tokens, queries with candidates to scores."""

    def read(self, sources: Sequence[Path]) -> np.ndarray:
        """Return tokens (n, places, width) float32."""

    def score(
        self, reference: np.ndarray, texts: Sequence[str], candidates: np.ndarray
    ) -> np.ndarray:
        """Return scores (n, k) of candidates' tokens (n, k, places, width), higher is better."""


def reranked(
    scored: Iterable[Scored], scorer: Scorer, dataset: Dataset, split: Split, k: int
) -> Iterator[Scored]:
    """Yield the scores with each query's k best raised above the rest, in the re-ranker's order.

    Below them stage I's order stays. A reference that the protocol removes is no candidate. A
    query's own subset is scored whole, whatever its members' ranks (CIRR).

    All pictures' tokens are read once and held in half precision: n * places * width * 2 bytes.
    """
    row = {picture: place for place, picture in enumerate(split.pictures)}
    tokens = scorer.read(dataset.paths(split.pictures)).astype(np.float16)
    for block in scored:
        gallery = np.asarray([row[i] for i in split.galleries[block.group]])
        columns = Columns.of(block, split)
        scores = block.scores.copy()
        among = scores.copy() if split.protocol.subset_ks else None
        for start in range(0, len(scores), QUERIES):
            rows = range(start, min(start + QUERIES, len(scores)))
            asked = [split.queries[int(block.queries[n])] for n in rows]
            reference = tokens[[row[q.reference] for q in asked]].astype(np.float32)
            texts = [q.text for q in asked]

            def judge(found: np.ndarray) -> np.ndarray:
                candidates = tokens[gallery[found]].astype(np.float32)  # noqa: B023
                return scorer.score(reference, texts, candidates)  # noqa: B023

            best = _best(block.scores[rows.start : rows.stop], columns.removed, rows, k)
            _raise(scores, rows, best, judge(best))
            if among is not None:
                members = np.asarray([columns.subset[n] for n in rows])
                _raise(among, rows, members, judge(members))
        yield replace(block, scores=scores, among=among)


def _best(scores: np.ndarray, removed: Sequence[int | None], rows: range, k: int) -> np.ndarray:
    """Return the columns of each row's k best, best first, (n, k); equal scores by column."""
    scores = scores.copy()
    for place, n in enumerate(rows):
        if removed[n] is not None:
            scores[place, removed[n]] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _raise(scores: np.ndarray, rows: range, columns: np.ndarray, judged: np.ndarray) -> None:
    """Put some columns of each row above all others, in the order of their new scores."""
    order = np.argsort(np.argsort(-judged, axis=1, kind="stable"), axis=1)  # 0 is the best
    places = np.arange(rows.start, rows.stop)[:, None]
    above = scores[rows.start : rows.stop].max(axis=1, keepdims=True)
    scores[places, columns] = above + judged.shape[1] - order
