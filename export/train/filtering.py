"""Which pseudo-triplets are worth learning from: those whose target LIMN itself finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BLOCK = 256  # queries scored together


@dataclass(frozen=True, kw_only=True)
class Filtering:
    """A pseudo-triplet is kept by its target's rank, or by its score."""

    rank: int = 10  # p: kept where the target is among so many
    quantile: float = 0.5  # or where it scores above this share of the labelled triplets

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"rank is {self.rank}, expected at least 0")
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile is {self.quantile:g}, expected 0 to 1")

    def keeps(self, found: Found, labelled: Found) -> np.ndarray:
        """Tell which triplets are kept, (n,) bool; `labelled` sets the score's threshold."""
        threshold = np.quantile(labelled.scores, self.quantile) if len(labelled.scores) else np.inf
        return (found.ranks <= self.rank) | (found.scores > threshold)


@dataclass(frozen=True, kw_only=True)
class Found:
    """How well queries find the target that they are said to have."""

    scores: np.ndarray  # (n,) float32, inner products
    ranks: np.ndarray  # (n,) int64 from 1


def find(
    queries: np.ndarray,
    vectors: np.ndarray,
    *,
    reference: np.ndarray,
    target: np.ndarray,
    groups: np.ndarray | None = None,
) -> Found:
    """Score queries (n, dim) against their targets and rank these among `vectors` (m, dim).

    `reference` and `target` (n,) are rows of `vectors`; the reference takes no rank, and where
    `groups` (m,) are given, only the target's own group is ranked. Equal scores share a rank.
    """
    scores = np.empty(len(queries), np.float32)
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        every = queries[block] @ vectors.T  # (block, m)
        rows = np.arange(len(every))
        own = every[rows, target[block]]
        above = every > own[:, None]
        above[rows, reference[block]] = False
        if groups is not None:
            above &= groups[None, :] == groups[target[block]][:, None]
        scores[block], ranks[block] = own, 1 + above.sum(1)
    return Found(scores=scores, ranks=ranks)
