"""A small geometry of the re-ranking models, and inputs for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cir_rt.export.models.prune import PruneConfig

WORDS, IMAGE_WIDTH = 111, 24


def config(**changes: Any) -> PruneConfig:
    small: dict[str, Any] = {
        "vocabulary": WORDS,
        "context": 19,
        "enc_id": 1,
        "width": 32,
        "heads": 4,
        "layers": 2,
        "inner": 48,
        "image_width": IMAGE_WIDTH,
        "dim": 20,
    }
    return PruneConfig(**{**small, **changes})


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """Move every weight, so that no norm is the identity and no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def captions(n: int, length: int, seed: int = 0) -> Tensor:
    """Return ids of n captions of different lengths, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, WORDS, (n, length), generator=generator)
    for k in range(1, n):
        ids[k, max(1, length - 2 * k) :] = 0
    return ids


def lengths(ids: Tensor) -> list[int]:
    return (ids != 0).sum(1).tolist()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, IMAGE_WIDTH, generator=torch.Generator().manual_seed(seed))
