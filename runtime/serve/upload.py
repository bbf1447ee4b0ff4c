"""An uploaded picture, decoded away from the engines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cir_rt.pictures import load
from cir_rt.preprocess import Preprocess

Prepared = np.ndarray | Image.Image


def prepared(image: Image.Image, geometries: Sequence[Preprocess]) -> Prepared:
    """Decode a picture into what a search takes. Raises PictureError.

    Where every image engine sees the same pixels, they are (size, size, 3) uint8: scaling them
    again changes nothing. Else it is the whole picture.
    """
    pixels = geometries[0].pixels(image)
    if all((g.size, g.fit) == (geometries[0].size, geometries[0].fit) for g in geometries):
        return pixels
    return load(image)
