"""Reading one picture from whatever a caller holds, or refusing it by name."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Union

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cir_rt.errors import PictureError


class StoredId(str):
    """An id of the gallery, and never a path."""


PictureSource = Union[str, "os.PathLike[str]", bytes, Image.Image, np.ndarray]

MAX_PIXELS = 64_000_000  # refused before decoding: a decompression bomb, or a scan nobody points at
MAX_SIDE = 30_000
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

_DIRECT = ("RGB", "L", "CMYK", "YCbCr", "1")
_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def load(source: PictureSource) -> Image.Image:
    """Return the picture as upright 8-bit RGB.

    EXIF orientation is applied, transparency is laid on white, palettes, grey, CMYK and 16-bit
    grey are converted. Raises PictureError for anything unreadable, truncated, animated, too
    large, or in another mode (32-bit integer and float, LAB, HSV).
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        name = "picture"
    elif isinstance(source, bytes):
        name = f"picture of {len(source)} bytes"
    else:
        name = str(source)
        if Path(source).is_dir():
            raise PictureError(f"{name}: is a folder. Expected a path to one picture.")
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source, name)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _to_rgb(image, name)
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise PictureError(f"{name}: no such file. Expected a path to a picture.") from error
    except PermissionError as error:
        raise PictureError(f"{name}: no permission to read it.") from error
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{name}: not a picture that can be read. Expected JPEG, PNG, WebP, BMP or TIFF."
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(name)) from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise PictureError(
            f"{name}: truncated or damaged ({error}). Save the picture again and retry."
        ) from error


def _too_large(name: str, size: tuple[int, int] | None = None) -> str:
    extent = f" ({size[0]} x {size[1]})" if size else ""
    return (
        f"{name}: too large{extent}. Expected at most {MAX_PIXELS // 1_000_000} megapixels and "
        f"{MAX_SIDE} pixels a side; scale it down first."
    )


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise PictureError(_too_large(name, image.size))
    if width == 0 or height == 0:
        raise PictureError(f"{name}: has no pixels ({width} x {height}).")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a phone's photo with its preview
        raise PictureError(
            f"{name}: animated or multi-page ({frames} frames). "
            "Expected a single picture; save one frame."
        )
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    elif image.mode not in _DIRECT:
        raise PictureError(
            f"{name}: pixel mode {image.mode} is not taken. Expected RGB, grey, palette or CMYK "
            "of 8 bits a channel, or 16-bit grey; convert it first."
        )
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    shape_ok = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shape_ok:
        raise PictureError(
            f"array of shape {array.shape} and type {array.dtype}. "
            "Expected uint8 of shape (height, width), (height, width, 3) or (height, width, 4)."
        )
    if array.size == 0:
        raise PictureError(f"array of shape {array.shape} has no pixels.")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), "array")
