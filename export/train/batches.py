"""Batches of pictures and the queries between them; each picture is encoded once a batch."""

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


def draw(
    links: Links, *, pictures: int, queries: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield one epoch of (picture rows, query rows), every query once, in random order.

    A batch is full with `pictures` pictures or `queries` queries. Products with many queries weigh
    as much as they do when the protocol asks them.
    """
    inside: dict[int, None] = {}
    members: list[int] = []
    for query in rng.permutation(len(links.targets)):
        target = rng.choice(links.targets[query])
        pair = {int(links.reference[query]): None, int(target): None}
        if len(members) == queries or len(inside | pair) > pictures:
            if members:
                yield np.asarray(list(inside)), np.asarray(members)
            inside, members = {}, []
        if len(pair) <= pictures:
            inside |= pair
            members.append(int(query))
    if members:
        yield np.asarray(list(inside)), np.asarray(members)


def walk(
    links: Links, *, pictures: int, queries: int, neighbours: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield one epoch of (picture rows, query rows), every picture at most once.

    Walks the graph reference - target from random starts, `neighbours` pictures from each, and
    cuts the walk every `pictures` pictures; a batch holds at most `queries` of the queries whose
    reference and at least one target are inside. Many queries share each picture's cost, and
    neighbours are each other's hardest negatives.
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
