"""From a picture to the image encoder's input: one implementation for training and serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cir_rt.pictures import PictureSource, load

FITS = ("crop", "pad", "targetpad")
ASPECT = 1.25  # longest that "targetpad" leaves


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Geometry and normalisation of the image encoder's input.

    `fit` is "crop" (short side to `size`, centre crop: CLIP's rule) or "pad" (long side to `size`,
    centred on white: nothing of a tall garment is cut off), or "targetpad" (pictures longer than
    1.25 : 1 are padded with black to that, then "crop": the rule of CLIP4Cir and of candidate
    re-ranking, github.com/ABaldrati/CLIP4Cir).
    """

    size: int = 80
    fit: str = "pad"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {self.size}")
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got '{self.fit}'")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std take three values, std above zero")

    def pixels(self, source: PictureSource) -> np.ndarray:
        """Return the picture as (size, size, 3) uint8. Raises PictureError."""
        image = load(source)
        if self.fit == "pad":
            return np.asarray(self._padded(image))
        return np.asarray(self._cropped(_widened(image) if self.fit == "targetpad" else image))

    def _cropped(self, image: Image.Image) -> Image.Image:
        """Scale the short side, cut the centre; in one step, with no huge picture between."""
        size, side = self.size, min(image.size)
        width, height = (max(1, round(n * size / side)) for n in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        across, down = image.width / width, image.height / height  # source pixels a pixel
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), Image.Resampling.BICUBIC, box=box)

    def _padded(self, image: Image.Image) -> Image.Image:
        scale = self.size / max(image.size)
        scaled = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        if scaled != image.size:
            image = image.resize(scaled, Image.Resampling.BICUBIC)
        if scaled == (self.size, self.size):
            return image
        canvas = Image.new("RGB", (self.size, self.size), "white")
        canvas.paste(image, ((self.size - scaled[0]) // 2, (self.size - scaled[1]) // 2))
        return canvas

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """Return (n, size, size, 3) uint8 as (n, 3, size, size) float32: (x / 255 - mean) / std."""
        std = np.asarray(self.std, np.float64)
        scale = (1 / (255 * std)).astype(np.float32)
        offset = (-np.asarray(self.mean, np.float64) / std).astype(np.float32)
        planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))  # a quarter of the bytes
        normal = planes * scale[:, None, None]
        normal += offset[:, None, None]
        return normal

    def __call__(self, sources: Sequence[PictureSource]) -> np.ndarray:
        """Return the pictures as (n, 3, size, size) float32. Raises PictureError."""
        if not sources:
            return np.zeros((0, 3, self.size, self.size), np.float32)
        return self.normalise(np.stack([self.pixels(source) for source in sources]))


def _widened(image: Image.Image) -> Image.Image:
    """Pad the short side with black until the long one is no more than ASPECT times as long."""
    width, height = image.size
    if max(width, height) < ASPECT * min(width, height):
        return image
    wanted = max(width, height) / ASPECT
    across, down = (max(int((wanted - side) / 2), 0) for side in (width, height))
    canvas = Image.new("RGB", (width + 2 * across, height + 2 * down))
    canvas.paste(image, (across, down))
    return canvas
