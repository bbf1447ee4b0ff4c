"""A dataset's training split as arrays: pixels, token ids and links between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np

from cir_rt.export.data.dataset import Dataset, Query, Split
from cir_rt.export.train.batches import Links
from cir_rt.preprocess import Preprocess
from cir_rt.text import Tokenizer, text_lengths


def variants(query: Query) -> tuple[str, ...]:
    """Return the ways to read a query in training: each caption alone, and joined in any order."""
    alone = query.spoken
    if len(alone) == 1:
        return alone
    return alone + tuple(" and ".join(order) for order in permutations(alone))


def texts_of(dataset: Dataset, split: Split) -> list[str]:
    """Return every text that training reads, repeats included."""
    captions = [text for query in split.queries for text in variants(query)]
    return captions + [p for i in split.pictures for p in dataset.labels.get(i, ())]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Training data in memory; texts are rows of `ids`, pictures rows of `pixels`."""

    names: tuple[str, ...]  # the pictures' ids
    pixels: np.ndarray  # (pictures, size, size, 3) uint8
    ids: np.ndarray  # (texts, longest) int64, each text once
    links: Links
    captions: tuple[np.ndarray, ...]  # per query, rows of `ids` that say it
    phrases: tuple[np.ndarray, ...]  # per picture, rows of `ids` that describe it
    products: np.ndarray  # (pictures,) int64, the same number for pictures of one product
    weights: np.ndarray | None = None  # (queries,) float32 of the loss; None: all alike
    candidates: np.ndarray | None = None  # (queries, top) int64, a pruner's best pictures
    keep_reference: bool = True  # whether the protocol ranks a query's own reference

    def only(self, queries: np.ndarray) -> Examples:
        """Return the same pictures with some of the queries, (queries,) bool."""
        chosen = np.flatnonzero(queries)
        links = replace(
            self.links,
            reference=self.links.reference[chosen],
            targets=tuple(self.links.targets[q] for q in chosen),
        )
        captions = tuple(self.captions[q] for q in chosen)
        weights = None if self.weights is None else self.weights[chosen]
        best = None if self.candidates is None else self.candidates[chosen]
        return replace(self, links=links, captions=captions, weights=weights, candidates=best)

    def weighed(self, last: int, weight: float) -> Examples:
        """Return the same with the last queries' losses weighing `weight`, the others' 1."""
        weights = np.ones(len(self.captions), np.float32)
        weights[-last:] = weight
        return replace(self, weights=weights)

    def tokens(self, rows: np.ndarray, pad_id: int) -> np.ndarray:
        """Return the rows' token ids, cut to the longest of them."""
        ids = self.ids[rows]
        return ids[:, : int(text_lengths(ids, pad_id).max(initial=1))]


def read_examples(
    dataset: Dataset,
    split: Split,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    progress: Callable[[int, int], None] | None = None,
) -> Examples:
    """Load the split's pictures that take part in queries or carry labels.

    Raises DataError for missing pictures and PictureError for one that cannot be read.
    """
    used = {i for q in split.queries for i in (q.reference, *q.targets)}
    pictures = [
        i for i in split.pictures if i in used or dataset.labels.get(i) or i in dataset.products
    ]
    row = {picture: k for k, picture in enumerate(pictures)}
    texts: dict[str, int] = {}

    def text_rows(items: Sequence[str]) -> np.ndarray:
        return np.asarray([texts.setdefault(t, len(texts)) for t in items], np.int64)

    captions = tuple(text_rows(variants(q)) for q in split.queries)
    phrases = tuple(text_rows(dataset.labels.get(i, ())) for i in pictures)
    links = Links(
        reference=np.asarray([row[q.reference] for q in split.queries], np.int64),
        targets=tuple(np.asarray([row[t] for t in q.targets], np.int64) for q in split.queries),
        pictures=len(pictures),
    )
    return Examples(
        names=tuple(pictures),
        pixels=load_pixels(dataset.paths(pictures), preprocess, progress),
        ids=tokenizer(list(texts), truncate=True),
        links=links,
        captions=captions,
        phrases=phrases,
        products=_numbered([dataset.products.get(i, f"picture {i}") for i in pictures]),
        keep_reference=split.protocol.keep_reference,
    )


def _numbered(names: Sequence[str]) -> np.ndarray:
    numbers: dict[str, int] = {}
    return np.asarray([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def load_pixels(
    paths: Iterable[Path],
    preprocess: Preprocess,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Preprocess pictures on all cores, (n, size, size, 3) uint8."""
    paths = list(paths)
    pixels = np.empty((len(paths), preprocess.size, preprocess.size, 3), np.uint8)
    with ThreadPoolExecutor() as pool:
        for k, picture in enumerate(pool.map(preprocess.pixels, paths)):
            pixels[k] = picture
            if progress:
                progress(k + 1, len(paths))
    return pixels
