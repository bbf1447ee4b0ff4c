"""Colours where the net looks: attention over pixels, which keep their own colour.

A convolutional net mixes a thing's colour with its shape. Here its stages only say where to look;
what is pooled there are the pixels themselves, through two layers that see one place at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Palette(nn.Module):
    """Pixels (n, 3, side, side) and a net's stages -> mean colour codes of `heads` places."""

    def __init__(self, stages: Sequence[int], *, heads: int, width: int) -> None:
        """`stages` are the channels of the net's stages, the first has the finest places."""
        super().__init__()
        self.look = nn.ModuleList(nn.Conv2d(channels, heads, 1) for channels in stages)
        self.code = nn.Sequential(*_mix(3, width // 2), *_mix(width // 2, width))

    def forward(self, pixels: Tensor, stages: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the pooled codes (n, heads * width), and every place's (n, width, rows, columns).

        Places are those of the first stage.
        """
        side = stages[0].shape[-2:]
        seen = [
            F.interpolate(look(stage), size=side, mode="bilinear", align_corners=False)
            for look, stage in zip(self.look, stages, strict=True)
        ]
        shares = torch.stack(seen).sum(0).flatten(2).softmax(-1)  # (n, heads, places)
        codes = self.code(F.avg_pool2d(pixels, pixels.shape[-1] // side[-1]))
        return (shares @ codes.flatten(2).mT).flatten(1), codes


def _mix(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
