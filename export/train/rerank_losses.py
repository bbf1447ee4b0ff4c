"""Losses of candidate re-ranking, both stages: queries are told their targets, not the reverse.

Stage I: cross-entropy of scale * q.c over the batch's pictures. Stage II: of the scores over the
batch's targets, as published, or over the target and wrong answers that stage I ranks high.
Source: Liu, Sun, Teney, Gould (TMLR 2024; arXiv 2305.16304).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def query_to_target(
    logits: Tensor, positives: Tensor, right: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy of queries against a pool in which several answers may be right.

    `logits` (n, m), `positives` (n,) each row's chosen column, `right` (n, m) marks every column
    that is no negative. Those other than the chosen one leave the sum, so that they are neither
    pulled nor pushed. `weights` (n,) make the mean over the rows a weighted one.
    """
    chosen = F.one_hot(positives, logits.shape[1]).bool()
    others = logits.masked_fill(right & ~chosen, -torch.inf)
    each = F.cross_entropy(others, positives, reduction="none")
    return each.mean() if weights is None else (weights * each).sum() / weights.sum()


def hard_negatives(scores: Tensor, left_out: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of each query's target against wrong answers of its own.

    `scores` (n, 1 + negatives), the target's first; `left_out` (n, negatives) marks those that do
    not count, as `negatives.draw` does.
    """
    target = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    right = F.pad(left_out, (1, 0))
    return query_to_target(scores, target, right, weights)
