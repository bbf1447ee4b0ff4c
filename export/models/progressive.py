"""Adaptive weighting of image and text: q = l2norm(w_v v + w_t u).

Source: Zhao, Song, Jin, "Progressive Learning for Image Retrieval with Hybrid-Modality Queries"
(SIGIR 2022). No code is public: the gate's shape is a reconstruction, not the authors' own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.towers import unit


class WeightedComposition(nn.Module):
    """(w_v, w_t) = softmax(MLP([v; u]) / temperature), MLP 2d -> d -> 2."""

    def __init__(self, dim: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * dim, dim)
        self.gate = nn.Linear(dim, 2)
        self.temperature = temperature

    def pictures(self, seen: Encoded) -> Tensor:
        """Return what the gallery holds of pictures, and compose reads of a reference, (n, d)."""
        return seen.vectors

    def words(self, said: Encoded) -> Tensor:
        """Return what compose reads of captions, (n, d)."""
        return said.vectors

    def fix(self, weight: float) -> None:
        """Give the picture this weight, between 0 and 1, in every query; nothing here is learnt."""
        nn.init.zeros_(self.gate.weight)
        odds = math.log(weight / (1 - weight)) * self.temperature
        self.gate.bias.data.copy_(torch.tensor([odds, 0.0]))
        self.requires_grad_(False)

    def logits(self, v: Tensor, u: Tensor) -> Tensor:
        """Return the two log-odds, (n, 2): picture, words."""
        hidden = torch.relu(self.hidden(torch.cat([v, u], dim=-1)))
        return self.gate(hidden) / self.temperature

    def forward(self, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries (n, d), unit length, and weights (n, 2)."""
        weights = self.logits(v, u).softmax(-1)
        return unit(weights[:, :1] * v + weights[:, 1:] * u), weights
