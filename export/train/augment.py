"""Random geometry and light for training pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Ranges of the random affine map and of brightness; colours keep their hue."""

    flip: float = 0.5
    zoom: float = 0.15  # scale in [1 - zoom, 1 + zoom]
    stretch: float = 0.08  # aspect ratio
    shift: float = 0.08  # of the side
    tilt: float = 0.08  # radians
    light: float = 0.1
    erase: float = 0.0  # probability of one blanked rectangle

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Return (n, 3, side, side) normalised pictures, each changed in its own way."""
        n = len(pictures)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator) * 2 - 1

        zoom = 1 + self.zoom * uniform(n)
        stretch = 1 + self.stretch * uniform(n)
        angle = self.tilt * uniform(n)
        mirror = torch.where(torch.rand(n, generator=generator) < self.flip, -1.0, 1.0)
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0] = mirror * zoom * stretch * angle.cos()
        theta[:, 0, 1] = -zoom * angle.sin()
        theta[:, 1, 0] = mirror * zoom * angle.sin()
        theta[:, 1, 1] = zoom / stretch * angle.cos()
        theta[:, :, 2] = 2 * self.shift * uniform(n, 2)
        grid = F.affine_grid(theta.to(pictures.device), list(pictures.shape), align_corners=False)
        moved = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
        light = 1 + self.light * uniform(n, 1, 1, 1)
        moved = (moved + 1) * light.to(moved.device) - 1
        return self._erased(moved, generator) if self.erase else moved

    def _erased(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        side = pictures.shape[-1]
        places = torch.arange(side)
        centre = torch.rand(len(pictures), 2, 1, generator=generator) * side
        half = (0.08 + 0.12 * torch.rand(len(pictures), 2, 1, generator=generator)) * side
        inside = (places - centre).abs() < half  # (n, 2, side): rows, columns
        hit = torch.rand(len(pictures), 1, 1, generator=generator) < self.erase
        box = inside[:, 0, :, None] & inside[:, 1, None, :] & hit
        return pictures.masked_fill(box[:, None].to(pictures.device), 0.0)
