"""Reading one picture from whatever a caller holds, or refusing it by name."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Union, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cir_rt.bombs import Metered, check_scans, check_strips
from cir_rt.errors import PictureError


class StoredId(str):
    """An id of the gallery, and never a path."""


PictureSource = Union[str, "os.PathLike[str]", bytes, Image.Image, np.ndarray]

MAX_PIXELS = 64_000_000  # refused before decoding: a decompression bomb, or a scan nobody points at
MAX_SIDE = 30_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

_DIRECT = ("RGB", "L", "CMYK", "YCbCr", "1")
_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def load(source: PictureSource) -> Image.Image:
    """Return the picture as upright 8-bit RGB.

    EXIF orientation is applied, transparency is laid on white, palettes, grey, CMYK and 16-bit
    grey are converted. Raises PictureError for anything unreadable, truncated, animated, too
    large, in a format that is none of FORMATS, or in another mode (32-bit integer and float, LAB,
    HSV), and for what is small and takes minutes to decode.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    name = _name(source)
    with _told(name):
        if isinstance(source, Image.Image):
            return _to_rgb(source, name)
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            return _to_rgb(_opened(file, name), name)


def opened(data: bytes, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a picture of which the header alone was read; `load` takes it. Raises PictureError."""
    name = _name(data)
    with _told(name):
        return _opened(io.BytesIO(data), name, most_pixels)


def _opened(file: BinaryIO, name: str, most_pixels: int = MAX_PIXELS) -> Image.Image:
    check_strips(file)
    # NOTE: Pillow knows more formats, and hands some of them to other programs.
    image = Image.open(cast(BinaryIO, Metered(file)), formats=FORMATS)
    if image.width * image.height > most_pixels:
        raise PictureError(_too_large(name, image.size, most_pixels))
    return image


def _name(source: str | os.PathLike[str] | bytes | Image.Image) -> str:
    if isinstance(source, Image.Image):
        return "picture"
    if isinstance(source, bytes):
        return f"picture of {len(source)} bytes"
    if Path(source).is_dir():
        raise PictureError(f"{source}: is a folder. Expected a path to one picture.")
    return str(source)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Raise PictureError for whatever reading a picture raises."""
    try:
        yield
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise PictureError(f"{name}: no such file. Expected a path to a picture.") from error
    except PermissionError as error:
        raise PictureError(f"{name}: no permission to read it.") from error
    except UnidentifiedImageError as error:
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise PictureError(f"{name}: not a picture that can be read. Expected {kinds}.") from error
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(name)) from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise PictureError(
            f"{name}: truncated or damaged ({error}). Save the picture again and retry."
        ) from error


def _too_large(
    name: str, size: tuple[int, int] | None = None, most_pixels: int = MAX_PIXELS
) -> str:
    extent = f" ({size[0]} x {size[1]})" if size else ""
    return (
        f"{name}: too large{extent}. Expected at most {most_pixels / 1e6:g} megapixels and "
        f"{MAX_SIDE} pixels a side; scale it down first."
    )


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise PictureError(_too_large(name, image.size))
    if width == 0 or height == 0:
        raise PictureError(f"{name}: has no pixels ({width} x {height}).")
    # NOTE: counting the frames, as n_frames does, takes minutes where there are many.
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a photo with its preview
        raise PictureError(
            f"{name}: animated or multi-page. Expected a single picture; save one frame."
        )
    check_scans(image)
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
