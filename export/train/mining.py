"""Reference-target pairs that nobody described, mined among training pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cir_rt.errors import UsageError

_BLOCK = 256  # references scored together


@dataclass(frozen=True, kw_only=True)
class Mining:
    """Which pictures make a pair; the source names neighbours, the numbers are ours."""

    neighbours: int = 5  # targets of each reference
    duplicate: float = 0.95  # pictures of at least this cosine count as one

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours is {self.neighbours}, expected at least 1")
        if not -1 < self.duplicate <= 2:
            raise ValueError(f"duplicate is {self.duplicate:g}, expected a cosine, or 2 for none")


def mine(
    vectors: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    labelled: np.ndarray | None = None,
    settings: Mining | None = None,
) -> np.ndarray:
    """Return pairs (n, 2) int64 of rows, references first, in the references' order.

    A reference's targets are its nearest neighbours by `vectors` (m, dim) of unit length, nearest
    first, the lower row where two are as near. Only pictures of one group count, where `groups`
    (m,) says which are; near duplicates and `labelled` pairs (l, 2) do not. A pair has a direction:
    where a leads to b and b to a, each stands once, and a label takes out its own direction alone.
    The caller gives training pictures and no others. Raises UsageError for shapes that do not fit.
    """
    settings = settings or Mining()
    _check(vectors, groups, labelled)
    described = _targets(labelled, len(vectors))
    together = [np.arange(len(vectors))]
    if groups is not None:
        together = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    found = [np.empty((0, 2), np.int64)]
    for members in together:
        pool = np.ascontiguousarray(vectors[members])  # (members, dim)
        place = np.full(len(vectors), -1, np.int64)
        place[members] = np.arange(len(members))
        for start in range(0, len(members), _BLOCK):
            references = members[start : start + _BLOCK]
            scores = pool[start : start + _BLOCK] @ pool.T  # (references, members)
            scores[scores >= settings.duplicate] = -np.inf
            for row, reference in zip(scores, references.tolist(), strict=True):
                banned = place[[reference, *described[reference]]]
                row[banned[banned >= 0]] = -np.inf
                targets = members[_nearest(row, settings.neighbours)]
                found.append(np.stack([np.full_like(targets, reference), targets], axis=1))
    pairs = np.concatenate(found)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def _nearest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the highest finite scores, best first, lower places before equals."""
    count = min(count, int(np.isfinite(scores).sum()))
    if not count:
        return np.empty(0, np.int64)
    floor = np.partition(scores, len(scores) - count)[-count]
    places = np.flatnonzero(scores >= floor)
    return places[np.argsort(-scores[places], kind="stable")][:count]


def _targets(labelled: np.ndarray | None, pictures: int) -> list[list[int]]:
    targets: list[list[int]] = [[] for _ in range(pictures)]
    for reference, target in [] if labelled is None else labelled.tolist():
        targets[reference].append(target)
    return targets


def _check(vectors: np.ndarray, groups: np.ndarray | None, labelled: np.ndarray | None) -> None:
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise UsageError(
            f"vectors of shape {vectors.shape} and type {vectors.dtype}. "
            "Expected (pictures, dim) float32."
        )
    if groups is not None and groups.shape != (len(vectors),):
        raise UsageError(f"groups of shape {groups.shape}. Expected ({len(vectors)},).")
    if labelled is not None and (labelled.ndim != 2 or labelled.shape[1] != 2):
        raise UsageError(f"labelled pairs of shape {labelled.shape}. Expected (pairs, 2).")
    if labelled is not None and len(labelled):
        low, high = int(labelled.min()), int(labelled.max())
        if low < 0 or high >= len(vectors):
            wrong = low if low < 0 else high
            raise UsageError(f"labelled pairs name row {wrong} of {len(vectors)} pictures.")
