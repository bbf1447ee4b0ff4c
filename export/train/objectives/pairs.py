"""Stages 1 and 2 of the progressive system: pictures with their words, and with each other.

L = NCE(f_v(I), f_t(title or attributes)) + a NCE(f_v(I_a), f_v(I_b)) for two photos of one
product; stage 1 is the first term. Source: Zhao, Song, Jin (SIGIR 2022); no code is public.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cir_rt.errors import DataError
from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.systems import CirModel
from cir_rt.export.train import losses
from cir_rt.export.train.chance import Chance
from cir_rt.export.train.inputs import Inputs
from cir_rt.export.train.recipes import Recipe


class Pairs:
    """Batches of pictures in which one product's pictures stand side by side."""

    def __init__(
        self, model: CirModel, inputs: Inputs, recipe: Recipe, *, products: float = 0.0
    ) -> None:
        """`products` is the weight a of pairs of pictures; 0 leaves words alone.

        Raises DataError where no picture has words, or no product two pictures.
        """
        self.model, self.inputs, self.recipe = model, inputs, recipe
        self.products = products
        examples = inputs.examples
        if not any(len(rows) for rows in examples.phrases):
            raise DataError("no picture has a title or attributes. Add labels.csv to the dataset.")
        counts = np.bincount(examples.products)
        if products and counts.max() < 2:
            raise DataError("no product has two pictures. Set products = 0 in the recipe.")

    def batches(self, rng: np.random.Generator) -> Sequence[np.ndarray]:
        """Return picture rows: every picture once, products in random order."""
        product = self.inputs.examples.products
        place = rng.permutation(product.max() + 1)[product] + rng.random(len(product)) * 0.5
        order = np.argsort(place)
        return np.array_split(order, max(1, round(len(order) / self.recipe.pictures)))

    def losses(self, batch: np.ndarray, chance: Chance) -> dict[str, Tensor]:
        """Return the terms `titles` and, where they are wanted, `products`."""
        pictures = self.inputs.pictures(batch, chance)
        terms = {"titles": titles(self.model, self.inputs, pictures, batch, chance)}
        if self.products:
            paired = self._paired(pictures.vectors, self.inputs.examples.products[batch], chance)
            terms["products"] = self.products * paired
        return terms

    def _paired(self, vectors: Tensor, product: np.ndarray, chance: Chance) -> Tensor:
        same = product[:, None] == product[None, :]
        others = same & ~np.eye(len(product), dtype=bool)
        rows = np.flatnonzero(others.any(1))
        if not len(rows):
            return vectors.new_zeros(())
        chosen = (others[rows] * chance.rng.random((len(rows), len(product)))).argmax(1)
        place = torch.from_numpy(rows).to(vectors.device)
        return losses.contrastive(
            self.model.scale * vectors[place] @ vectors.T,
            torch.from_numpy(chosen).to(vectors.device),
            torch.from_numpy(same[rows]).to(vectors.device),
        )


def titles(
    model: CirModel, inputs: Inputs, pictures: Encoded, rows: np.ndarray, chance: Chance
) -> Tensor:
    """Return the NCE of `rows`' pictures against one of each picture's own phrases."""
    phrases = inputs.examples.phrases
    labelled = [k for k, row in enumerate(rows) if len(phrases[row])]
    if not labelled:
        return pictures.vectors.new_zeros(())
    described = np.asarray([chance.rng.choice(phrases[rows[k]]) for k in labelled])
    words = inputs.texts(described).vectors
    place = torch.as_tensor(labelled, device=words.device)
    return losses.contrastive(
        model.scale * pictures.vectors[place] @ words.T,
        torch.arange(len(described), device=words.device),
        torch.from_numpy(described[:, None] == described[None, :]).to(words.device),
    )
