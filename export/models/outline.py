"""A picture's shape without training: its grey thumbnail, whitened.

What a net learns of shapes it learns of the training pictures, and a few thousand of those it knows
by heart. A whitened thumbnail says as much of a picture that nobody has seen. It serves where
pictures are taken alike, as a shop's are: one thing, in the middle, upright.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 16  # of the thumbnail
_LEAST = 1e-4  # variance below which a direction is noise


class Outline(nn.Module):
    """Pixels (n, 3, side, side), side a multiple of 16 -> unit vectors (n, width).

    Principal components of grey thumbnails, each brought to unit variance. They are no parameters:
    `fit` takes them from pictures, once.
    """

    mean: Tensor
    weight: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        if not 0 < width < SIDE**2:
            raise ValueError(f"outline {width}: expected 1 to {SIDE**2 - 1} numbers.")
        self.width = width
        self.register_buffer("mean", torch.zeros(SIDE**2))
        self.register_buffer("weight", torch.eye(SIDE**2)[:, :width].contiguous())

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the whitened thumbnails, unit length; float32."""
        return F.normalize((_thumbnails(pixels) - self.mean) @ self.weight, dim=-1, eps=1e-6)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Take mean and components from batches of pictures (n, 3, side, side)."""
        grey = torch.cat([_thumbnails(pixels) for pixels in batches]).double()
        self.mean.copy_(grey.mean(0))
        values, vectors = torch.linalg.eigh(torch.cov(grey.T))
        values, vectors = (x.flip(-1)[..., : self.weight.shape[1]] for x in (values, vectors))
        self.weight.copy_(vectors / values.clamp(min=_LEAST).sqrt())


def _thumbnails(pixels: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(pixels.float().mean(1), SIDE).flatten(1)
