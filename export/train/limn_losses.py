"""Losses of LIMN: L = L_token + a L_factor + b L_orthogonal (arXiv 2305.09979)."""

from __future__ import annotations

import torch
from torch import Tensor

from cir_rt.export.models.limn import Limn
from cir_rt.export.models.towers import unit
from cir_rt.export.train.losses import contrastive

FACTOR, ORTHOGONAL = 0.5, 0.1  # a and b: where to start


def matching(
    compose: Limn,
    q: Tensor,
    flat: Tensor,
    positives: Tensor,
    right: Tensor,
    scale: Tensor,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return L_token and L_factor of queries (n, dim) against a pool of flat vectors (m, dim).

    Each is the cross-entropy over the batch of scale * S, or scale * S_f, in both directions as
    `contrastive` has it, which also says what `positives`, `right` and `weights` are; the source
    names queries against targets alone.
    """
    by_token, by_factor = compose.similarities(q, flat)
    return (
        contrastive(scale * by_token, positives, right, weights),
        contrastive(scale * by_factor, positives, right, weights),
    )


def orthogonality(*factors: Tensor) -> Tensor:
    """Return L_orthogonal: the mean of ||cos(F, F) - I||^2 / K^2 over factors F (n, K, width).

    Reference's, words' and target's factors weigh the same, however many rows each has.
    """
    return torch.stack([_overlap(f) for f in factors]).mean()


def _overlap(factors: Tensor) -> Tensor:
    directions = unit(factors)
    k = factors.shape[1]
    cosines = directions @ directions.mT  # (n, K, K)
    return (cosines - torch.eye(k, device=factors.device)).square().sum((1, 2)).mean() / k**2
