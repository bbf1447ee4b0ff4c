"""An uploaded picture: looked at before it is decoded, decoded away from the engines."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cir_rt.errors import PictureError
from cir_rt.pictures import load
from cir_rt.preprocess import Preprocess

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MOST_SCANS = 100  # of a JPEG; a progressive one has about ten
MOST_PASSES = 16  # over as many pixels as a picture may have

Prepared = np.ndarray | Image.Image


def opened(data: bytes, most_pixels: int) -> Image.Image:
    """Return a picture of which the header alone was read.

    Raises PictureError for what is none of FORMATS, has too many pixels, or is a JPEG whose few
    bytes ask for passes over every pixel without end.
    """
    try:
        # NOTE: Pillow knows more formats, and hands some of them to other programs.
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(most_pixels)) from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise PictureError(
            f"upload of {len(data)} bytes: not a picture that can be read. Expected "
            f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}."
        ) from error
    if image.width * image.height > most_pixels:
        raise PictureError(_too_large(most_pixels))
    # NOTE: a scan of no more than 40 bytes may go over the whole picture. Entropy-coded data
    # escapes 0xff, so that the marker stands where a scan begins, or in a preview.
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
    if scans > MOST_SCANS or scans * image.width * image.height > MOST_PASSES * most_pixels:
        raise PictureError(f"JPEG of {scans} scans: too many. Save it again and retry.")
    return image


def prepared(image: Image.Image, geometries: Sequence[Preprocess]) -> Prepared:
    """Decode a picture into what a search takes. Raises PictureError.

    Where every image engine sees the same pixels, they are (size, size, 3) uint8: scaling them
    again changes nothing. Else it is the whole picture.
    """
    pixels = geometries[0].pixels(image)
    if all((g.size, g.fit) == (geometries[0].size, geometries[0].fit) for g in geometries):
        return pixels
    return load(image)


def _too_large(most_pixels: int) -> str:
    return f"upload: more than {most_pixels / 1e6:g} megapixels. Scale it down and send it again."
