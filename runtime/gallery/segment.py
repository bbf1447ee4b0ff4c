"""The vectors of a gallery: one append-only, memory-mapped file of FP32 rows.

The file has no header: row r is `dim` little-endian float32 from byte r * dim * 4. How many rows
count, and what their checksums are, stands in the gallery's catalogue. What lies behind the last
row that counts was never confirmed: readers do not map it and the next append removes it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from cir_rt.errors import GalleryError

_DTYPE = np.dtype("<f4")


class Segment:
    """A file of vectors, `dim` float32 a row."""

    def __init__(self, path: Path, dim: int) -> None:
        self.path = path
        self._row_bytes = dim * _DTYPE.itemsize
        self._dim = dim

    def create(self) -> None:
        """Make the empty file, on disk before this returns; one that exists is left as it is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        for folder in (self.path.parent, self.path.parent.parent):
            sync_folder(folder)

    def map(self, rows: int) -> np.ndarray:
        """Map the first rows, read only: (rows, dim) float32.

        Raises GalleryError where the file is missing or holds fewer rows.
        """
        try:
            size = self.path.stat().st_size
            self._check(size, rows)
            if rows == 0:
                return np.empty((0, self._dim), np.float32)
            return np.asarray(np.memmap(self.path, _DTYPE, "r", shape=(rows, self._dim)))
        except OSError as error:
            raise GalleryError(f"{self.path}: {error.strerror or error}. {_VERIFY}") from error

    def append(self, vectors: np.ndarray, first_row: int) -> None:
        """Write the vectors from first_row on, behind nothing else, on disk before this returns.

        Raises OSError as the system gives it, after taking back what was written, and
        GalleryError where the file is shorter than first_row: a hole would read as zeros.
        """
        start = first_row * self._row_bytes
        left = np.ascontiguousarray(vectors, _DTYPE).data.cast("B")
        file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._check(os.fstat(file).st_size, first_row)
            os.ftruncate(file, start)
            try:
                position = start
                while left:
                    written = os.pwrite(file, left, position)
                    left, position = left[written:], position + written
                os.fsync(file)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file, start)
                raise
        finally:
            os.close(file)

    def _check(self, size_bytes: int, rows: int) -> None:
        if size_bytes < rows * self._row_bytes:
            raise GalleryError(
                f"{self.path}: holds {size_bytes // self._row_bytes} whole rows; expected {rows}. "
                + _VERIFY
            )


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


_VERIFY = "See what is whole: cir-rt inspect GALLERY --verify"
