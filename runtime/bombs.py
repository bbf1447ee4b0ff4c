"""Pictures whose few bytes cost minutes or gigabytes: refused before they are decoded.

Pillow refuses what claims too many pixels. What stands here is dear by other means: pieces without
end, passes over every pixel without end, more strips than rows.
"""

from __future__ import annotations

import os
import struct
from typing import Any, BinaryIO

from PIL import Image

from cir_rt.errors import PictureError

FREE_READS = 10_000  # of any file; then one for each BYTES_A_READ of it
BYTES_A_READ = 64  # a GIF is read 128 bytes at a time, a PNG more
MOST_SCANS = 100  # of a JPEG; a progressive one has about ten
MOST_PASSED = 640_000_000  # pixels times scans: ten scans of the largest picture
MOST_STRIPS = 100_000  # of a TIFF; an honest one has as many as rows, or tiles

_START_OF_SCAN = b"\xff\xda"
_CHUNK = 1 << 20
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"MM*\0", b"II\0*")  # all that Pillow takes
_STRIPS = (273, 279, 324, 325)  # offsets and lengths of strips and of tiles


class Metered:
    """A file that is read in a bounded number of pieces; all else of it is the file's own.

    Headers are parsed in Python: a JPEG of fill bytes costs a second a megabyte.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Take a file that may be read and sought."""
        self._file = file
        self._left = FREE_READS + file.seek(0, os.SEEK_END) // BYTES_A_READ
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Read as the file does. Raises PictureError where that is too often."""
        self._left -= 1
        if self._left < 0:
            raise PictureError("a picture in too many pieces. Save it again and retry.")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def check_strips(file: BinaryIO) -> None:
    """Raise PictureError for a TIFF that names more strips or tiles than any has.

    Pillow makes several objects of each: 2 megabytes of them become 300. Any other file passes,
    also one that is damaged. Leaves the file at its start.
    """
    file.seek(0)
    head = file.read(16)
    if head[:4] in _TIFF:
        order, big = "<" if head[:2] == b"II" else ">", head[2] == 43  # as Pillow reads it
        first, count, entry = ("8xQ", "Q", "HHQ8x") if big else ("4xI", "H", "HHI4x")
        try:
            file.seek(*struct.unpack_from(order + first, head))
            (entries,) = struct.unpack(order + count, file.read(struct.calcsize(count)))
            size = struct.calcsize("=" + entry)
            table = file.read(min(entries, 0xFFFF) * size)
        except (struct.error, OverflowError, ValueError):
            table, size = b"", 1
        for tag, _, strips in struct.iter_unpack(order + entry, table[: len(table) // size * size]):
            if tag in _STRIPS and strips > MOST_STRIPS:
                raise PictureError(f"TIFF of {strips} strips: too many. Save it again and retry.")
    file.seek(0)


def check_scans(image: Image.Image) -> None:
    """Raise PictureError for a JPEG, not decoded yet, of too many passes over its pixels.

    A scan of no more than 40 bytes may go over the whole picture. Entropy-coded data escapes 0xff,
    so that the marker stands where a scan begins, or in a preview.
    """
    file = getattr(image, "fp", None)
    if image.format not in ("JPEG", "MPO") or file is None:
        return
    here = file.tell()
    file.seek(0)
    scans = sum(chunk.count(_START_OF_SCAN) for chunk in iter(lambda: file.read(_CHUNK), b""))
    file.seek(here)
    if scans > MOST_SCANS or scans * image.width * image.height > MOST_PASSED:
        raise PictureError(f"JPEG of {scans} scans: too many. Save it again and retry.")
