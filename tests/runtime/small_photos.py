"""Small photos for tests, and an encoder that a reader can follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cir_rt.gallery.indexing import IndexReport
from cir_rt.preprocess import Preprocess


class MeanColour:
    """A vector is the picture's mean colour."""

    preprocess = Preprocess(size=8)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(len(pixels))
        means = pixels.mean((2, 3)).astype(np.float32) + np.float32(2)
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def paint(path: Path, seed: int, size: tuple[int, int] = (24, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = tuple(np.random.default_rng(seed).integers(0, 256, 3).tolist())
    Image.new("RGB", size, colour).save(path)
    return path


def photo_folder(folder: Path) -> Path:
    """Fill a folder: 0.png to 4.png, more/5.JPG, and a file that is no picture."""
    for k in range(5):
        paint(folder / f"{k}.png", k)
    paint(folder / "more" / "5.JPG", 5)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.added, report.updated, report.unchanged, report.pictures
