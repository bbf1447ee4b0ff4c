"""The pictures that a pruning system ranks best for each training query."""

from __future__ import annotations

import numpy as np

from cir_rt.export.data.dataset import Dataset, Split
from cir_rt.export.evaluate import Columns, Encoder, QueryEncoder, ask
from cir_rt.export.train.examples import Examples
from cir_rt.metrics import best_rows


def candidates(
    encoder: Encoder | QueryEncoder, dataset: Dataset, split: Split, examples: Examples, top: int
) -> np.ndarray:
    """Return rows of the examples' pictures, best first: (queries, top) int64.

    Each query ranks its group's gallery by the split's protocol; where that has fewer pictures
    than `top`, the last one repeats.
    """
    row = {picture: k for k, picture in enumerate(examples.names)}
    found = np.zeros((len(split.queries), top), np.int64)
    for block in ask(encoder, dataset, split):
        gallery = split.galleries[block.group]
        removed = Columns.of(block, split).removed
        # Pictures that training does not read are no candidates.
        known = np.asarray([k for k, picture in enumerate(gallery) if picture in row])
        place = {int(column): k for k, column in enumerate(known)}
        without = [None if r is None else place.get(r) for r in removed]
        best = best_rows(block.scores[:, known], top, removed=without)
        for query, columns in zip(block.queries, best, strict=True):
            rows = [row[gallery[known[c]]] for c in columns]
            found[query] = rows + rows[-1:] * (top - len(rows))
    return found
