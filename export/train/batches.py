"""Batches that share pictures: many queries for each picture that is encoded.

A picture's forward and backward pass costs far more than a query's. Queries of one product point
at the same few photos, so a batch takes whole neighbourhoods of pictures and every query that
stays within them; neighbours are also each other's hardest negatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Links:
    """Queries as rows of a picture table."""

    reference: np.ndarray  # (queries,) int64
    targets: tuple[np.ndarray, ...]  # per query, rows of its right answers
    pictures: int


def batches(
    links: Links, *, pictures: int, queries: int, neighbours: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield one epoch of (picture rows, query rows).

    Walks the graph reference - target from random starts, `neighbours` pictures from each, and
    cuts the walk every `pictures` pictures; a batch holds at most `queries` of the queries whose
    reference and at least one target are inside. Long walks give a query its hardest negatives,
    short ones more products to be told apart.
    """
    order = _walk(links, neighbours, rng)
    place = np.empty(links.pictures, np.int64)
    place[order] = np.arange(len(order))
    home = place[links.reference] // pictures
    inside = [q for q, t in enumerate(links.targets) if (place[t] // pictures == home[q]).any()]
    grouped: dict[int, list[int]] = {}
    for q in inside:
        grouped.setdefault(int(home[q]), []).append(q)
    for key in rng.permutation(list(grouped)):
        members = np.asarray(grouped[int(key)])
        if len(members) > queries:
            members = rng.choice(members, queries, replace=False)
        yield order[key * pictures : (key + 1) * pictures], members


def _walk(links: Links, longest: int, rng: np.random.Generator) -> np.ndarray:
    linked: list[list[int]] = [[] for _ in range(links.pictures)]
    for reference, targets in zip(links.reference, links.targets, strict=True):
        for target in targets:
            linked[reference].append(int(target))
            linked[target].append(int(reference))
    seen = np.zeros(links.pictures, bool)
    order: list[int] = []
    for start in rng.permutation(links.pictures):
        ahead, steps = [int(start)], 0
        while ahead and steps < longest:
            picture = ahead.pop()
            if seen[picture]:
                continue
            seen[picture] = True
            steps += 1
            order.append(picture)
            ahead += [n for n in _shuffled(linked[picture], rng) if not seen[n]]
    return np.asarray(order)


def _shuffled(items: Sequence[int], rng: np.random.Generator) -> list[int]:
    return [items[i] for i in rng.permutation(len(items))]
