"""Stage II of re-ranking: targets against other queries' targets, or against hard negatives.

Source: Liu, Sun, Teney, Gould (TMLR 2024; arXiv 2305.16304), who train on the batch's targets
alone; hard negatives from a pruner's candidates are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cir_rt.export.models.systems import RerankModel
from cir_rt.export.train.chance import Chance
from cir_rt.export.train.inputs import Inputs, half_precision
from cir_rt.export.train.losses import query_to_target
from cir_rt.export.train.negatives import draw
from cir_rt.export.train.recipes import Rerank
from cir_rt.export.train.rerank_losses import hard_negatives


class Candidates:
    """Batches of queries, each with its target and wrong candidates."""

    def __init__(self, model: RerankModel, inputs: Inputs, recipe: Rerank) -> None:
        """For hard negatives, the inputs' examples carry a pruner's candidates."""
        self.model, self.inputs, self.recipe = model, inputs, recipe
        self.ranking = inputs.examples.candidates

    def batches(self, rng: np.random.Generator) -> Sequence[np.ndarray]:
        """Return query rows, every query once; the last batch may be smaller."""
        order = rng.permutation(len(self.inputs.examples.captions))
        size = self.recipe.queries
        return [order[k : k + size] for k in range(0, len(order), size)]

    def losses(self, batch: np.ndarray, chance: Chance) -> dict[str, Tensor]:
        """Return `rerank`, and `early` where the model has an early head."""
        links = self.inputs.examples.links
        target = np.asarray([chance.rng.choice(links.targets[q]) for q in batch])
        candidates, left_out = self._candidates(batch, target, chance)
        rows, place = np.unique(
            np.concatenate([links.reference[batch], candidates.ravel()]), return_inverse=True
        )
        tokens = self.inputs.pictures(rows, chance).tokens
        where = torch.from_numpy(place).to(tokens.device)
        said = np.asarray([chance.rng.choice(self.inputs.examples.captions[q]) for q in batch])
        ids = self.inputs.ids(said)
        apart = torch.from_numpy(left_out).to(tokens.device)
        with half_precision(self.inputs.device):
            z = self.model.text.read(tokens[where[: len(batch)]], ids)
            chosen = tokens[where[len(batch) :]].unflatten(0, candidates.shape)
            *early, scores = self.model.rerank.depths(z, ids, chosen)
        terms = {"rerank": self._loss(scores.float(), apart)}
        if early:
            terms["early"] = self.recipe.early * self._loss(early[0].float(), apart)
        return terms

    def _loss(self, scores: Tensor, left_out: Tensor) -> Tensor:
        if self.ranking is None:
            diagonal = torch.arange(len(scores), device=scores.device)
            return query_to_target(scores, diagonal, left_out)
        return hard_negatives(scores, left_out)

    def _candidates(
        self, batch: np.ndarray, target: np.ndarray, chance: Chance
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return picture rows, and which of them are no negatives of a query.

        One target a query, shared by all: (n,) and (n, n); or its target and wrong answers of its
        own: (n, 1 + hard) and (n, hard).
        """
        answers = [self._answers(q) for q in batch]
        if self.ranking is None:
            return target, np.asarray([np.isin(target, right) for right in answers])
        wrong, left_out = draw(self.ranking[batch], answers, self.recipe.hard, chance.rng)
        return np.concatenate([target[:, None], wrong], axis=1), left_out

    def _answers(self, query: int) -> np.ndarray:
        """Return the rows that are no negatives of a query."""
        examples = self.inputs.examples
        right = examples.links.targets[query]
        if examples.keep_reference:
            return right
        return np.append(right, examples.links.reference[query])
