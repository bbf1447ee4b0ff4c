"""Composed queries: a batch of them over the pictures that the batch holds.

Stage 3 of the progressive system, LIMN and stage I of re-ranking differ in the loss alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cir_rt.errors import ConfigError
from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.systems import CirModel
from cir_rt.export.train.batches import draw, walk
from cir_rt.export.train.chance import Chance
from cir_rt.export.train.inputs import Inputs
from cir_rt.export.train.objectives.pairs import titles
from cir_rt.export.train.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A batch's queries."""

    pictures: Encoded  # of the batch
    reference: Tensor  # (queries,) int64, rows of `pictures`
    positives: Tensor  # (queries,) int64, the answer that each learns from
    right: Tensor  # (queries, pictures) bool, no negatives: right answers, a reference not ranked
    captions: np.ndarray  # (queries,) int64, rows of the examples' texts
    weights: Tensor | None  # (queries,) of the loss; None: all alike


Terms = Callable[[Any, Inputs, Any, Asked], dict[str, Tensor]]  # model and recipe of one system


class Triplets:
    """Queries drawn with reference and target; each picture is encoded once a batch."""

    def __init__(self, model: CirModel, inputs: Inputs, recipe: Recipe, terms: Terms) -> None:
        """`terms` are the system's own losses."""
        self.model, self.inputs, self.recipe, self.terms = model, inputs, recipe, terms

    def batches(self, rng: np.random.Generator) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return (picture rows, query rows) as the recipe wants them drawn."""
        links = self.inputs.examples.links
        limits = {"pictures": self.recipe.pictures, "queries": self.recipe.queries}
        if self.recipe.neighbours:
            found = list(walk(links, neighbours=self.recipe.neighbours, rng=rng, **limits))
        else:
            found = list(draw(links, rng=rng, **limits))
        if not found:
            raise ConfigError(
                f"no query lies within a batch of {self.recipe.pictures} pictures. "
                "Raise the recipe's setting pictures, or check the data's queries."
            )
        return found

    def losses(self, batch: tuple[np.ndarray, np.ndarray], chance: Chance) -> dict[str, Tensor]:
        """Return the system's terms, and `titles` where the recipe weighs them."""
        rows, queries = batch
        pictures = self.inputs.pictures(rows, chance)
        asked = self._asked(rows, queries, pictures, chance)
        terms = self.terms(self.model, self.inputs, self.recipe, asked)
        if self.recipe.titles:
            described = titles(self.model, self.inputs, pictures, rows, chance)
            terms["titles"] = self.recipe.titles * described
        return terms

    def _asked(
        self, rows: np.ndarray, queries: np.ndarray, pictures: Encoded, chance: Chance
    ) -> Asked:
        examples, device = self.inputs.examples, self.inputs.device
        place = np.full(examples.links.pictures, -1, np.int64)
        place[rows] = np.arange(len(rows))
        reference = place[examples.links.reference[queries]]
        right = np.zeros((len(queries), len(rows)), bool)
        positives = np.empty(len(queries), np.int64)
        for row, query in enumerate(queries):
            inside = place[examples.links.targets[query]]
            inside = inside[inside >= 0]
            right[row, inside] = True
            positives[row] = chance.rng.choice(inside)
        if not examples.keep_reference:
            right[np.arange(len(queries)), reference] = True
        weights = examples.weights
        return Asked(
            pictures=pictures,
            reference=torch.from_numpy(reference).to(device),
            positives=torch.from_numpy(positives).to(device),
            right=torch.from_numpy(right).to(device),
            captions=np.asarray([chance.rng.choice(examples.captions[q]) for q in queries]),
            weights=None if weights is None else torch.from_numpy(weights[queries]).to(device),
        )
