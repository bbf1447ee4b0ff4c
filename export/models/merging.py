"""Token merging as a module, for any tower's tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cir_rt.export.rewrites.merge import merging


class TokenMerging(nn.Module):
    """Tokens (n, places, width) -> (n, fewer, width), the first kept: see `rewrites.merge`.

    Raises ConfigError for numbers of tokens that are not 1 more than a square.
    """

    matrix: Tensor

    def __init__(self, places: int, fewer: int) -> None:
        super().__init__()
        matrix = torch.from_numpy(merging(places, fewer))
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Average neighbours."""
        return self.matrix.to(tokens.dtype) @ tokens
