"""Losses of composed retrieval."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def query_to_target(
    logits: Tensor, positives: Tensor, right: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy of queries against a pool in which several answers may be right.

    `logits` (n, m) are scaled similarities, `positives` (n,) each row's chosen column, `right`
    (n, m) marks every column that is no negative. Those other than the chosen one leave the sum,
    so that they are neither pulled nor pushed. `weights` (n,) make the mean over the rows a
    weighted one.
    """
    chosen = F.one_hot(positives, logits.shape[1]).bool()
    others = logits.masked_fill(right & ~chosen, -torch.inf)
    return _mean(F.cross_entropy(others, positives, reduction="none"), weights)


def contrastive(
    logits: Tensor, positives: Tensor, right: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE: queries against the pool as in `query_to_target`, answers against queries.

    Of an answer, queries that it answers as well leave the sum.
    """
    rows = torch.arange(len(positives), device=logits.device)
    columns = logits[:, positives].T  # (n, n): [i, j] = query j against i's answer
    also_right = right[:, positives].T.clone()
    also_right[rows, rows] = False
    columns = columns.masked_fill(also_right, -torch.inf)
    backward = _mean(F.cross_entropy(columns, rows, reduction="none"), weights)
    return (query_to_target(logits, positives, right, weights) + backward) / 2


def _mean(each: Tensor, weights: Tensor | None) -> Tensor:
    return each.mean() if weights is None else (weights * each).sum() / weights.sum()


def weight_targets(v: Tensor, u: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Return which modality lies nearer to the target: softmax([cos(v, y), cos(u, y)] / T), (n, 2).

    The target is known in training, so it teaches the gate; no gradient flows through.
    """
    with torch.no_grad():
        return torch.stack([(v * y).sum(-1), (u * y).sum(-1)], -1).div(temperature).softmax(-1)


def weighting(targets: Tensor, weights: Tensor) -> Tensor:
    """Mean KL(targets || weights) over (n, 2) distributions."""
    return F.kl_div(weights.clamp(min=1e-8).log(), targets, reduction="batchmean")
