"""One append-only file of a gallery: rows of one format, vectors or candidate tokens.

The file has no header: row r is the `row_bytes` from byte r * row_bytes on. How many rows count,
and what their checksums are, stands in the gallery's catalogue. What lies behind the last row that
counts was never confirmed: readers do not look at it and the next append removes it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from cir_rt.errors import GalleryError
from cir_rt.gallery.disk import storage_errors, sync_folder
from cir_rt.gallery.facts import Facts
from cir_rt.gallery.rowformat import RowFormat


class Segment:
    """A file of rows of one format."""

    def __init__(self, path: Path, row_format: RowFormat) -> None:
        """Name the file; `vector_segment` and `token_segment` know a gallery's."""
        self.path = path
        self.format = row_format

    def create(self) -> None:
        """Make the empty file, on disk before this returns; one that exists is left as it is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        for folder in (self.path.parent, self.path.parent.parent):
            sync_folder(folder)

    def map(self, rows: int) -> np.ndarray:
        """Map the first rows as they are stored, read only.

        Raises GalleryError where the file is missing or holds fewer rows.
        """
        with storage_errors(self.path):
            self._check(self.path.stat().st_size, rows)
            if rows == 0:
                return self.format.empty(0)
            return np.asarray(np.memmap(self.path, self.format.dtype, "r", shape=(rows,)))

    def open(self) -> int:
        """Open the file for `read`; the caller closes it."""
        with storage_errors(self.path):
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, file: int, rows: Sequence[int]) -> np.ndarray:
        """Read these rows as they are stored, through a file that `open` gave.

        They are given in the order asked, and read as they lie on the disk.
        """
        found = self.format.empty(len(rows))
        with storage_errors(self.path):
            for row, i in sorted(zip(rows, range(len(rows)), strict=True)):
                into = found[i : i + 1].view(np.uint8).data
                if os.preadv(file, [into], row * self.format.row_bytes) < self.format.row_bytes:
                    raise GalleryError(f"{self.path}: ends before row {row}. {_VERIFY}")
        return found

    def append(self, rows: np.ndarray, first_row: int) -> None:
        """Write stored rows from first_row on, behind nothing else, on disk before this returns.

        Raises OSError as the system gives it, after taking back what was written, and
        GalleryError where the file is shorter than first_row: a hole would read as zeros.
        """
        start = first_row * self.format.row_bytes
        left = rows.view(np.uint8).reshape(-1).data
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
        if size_bytes < rows * self.format.row_bytes:
            raise GalleryError(
                f"{self.path}: holds {size_bytes // self.format.row_bytes} whole rows; "
                f"expected {rows}. {_VERIFY}"
            )


def vector_segment(folder: Path, facts: Facts) -> Segment:
    """Return the file of a gallery's vectors; rows as in the catalogue."""
    name = f"{facts.segment:06d}.{facts.vectors.suffix}"
    return Segment(folder / "vectors" / name, facts.vectors)


def token_segment(folder: Path, facts: Facts) -> Segment:
    """Return the file of a gallery's candidate tokens; rows are the catalogue's places."""
    assert facts.tokens
    name = f"{facts.segment:06d}.{facts.tokens.rows.suffix}"
    return Segment(folder / "tokens" / name, facts.tokens.rows)


def row_checksums(rows: np.ndarray) -> list[int]:
    """Return the CRC32 of each stored row."""
    return [zlib.crc32(rows[i : i + 1].view(np.uint8).data) for i in range(len(rows))]


_VERIFY = "See what is whole: cir-rt inspect GALLERY --verify"
