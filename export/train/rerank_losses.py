"""Losses of candidate re-ranking, both stages: queries are told their targets, not the reverse.

Stage I: cross-entropy of scale * q.c over the batch's pictures. Stage II: of the scores over the
batch's targets, as published, or over the target and wrong answers that stage I ranks high.
Source: Liu, Sun, Teney, Gould (TMLR 2024; arXiv 2305.16304).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cir_rt.export.train.losses import query_to_target


def hard_negatives(scores: Tensor, left_out: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of each query's target against wrong answers of its own.

    `scores` (n, 1 + negatives), the target's first; `left_out` (n, negatives) marks those that do
    not count, as `negatives.draw` does.
    """
    target = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    right = F.pad(left_out, (1, 0))
    return query_to_target(scores, target, right, weights)
