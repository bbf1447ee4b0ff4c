"""Approximate indexes on disk: derived from the vectors, believed only where they match them.

    indexes/hnsw.json                       what the saved index is of; its renaming is the commit
    indexes/hnsw-000000-100000-1f2e3d4c.index   what the library wrote: segment, rows, checksum

Only who holds the gallery's lock writes here. All of it may be deleted: it is built again.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cir_rt.config import from_dict, to_dict
from cir_rt.errors import BackendMissing, ConfigError, GalleryError
from cir_rt.gallery.approximate import ApproximateIndex
from cir_rt.gallery.disk import storage_errors, sync_folder
from cir_rt.gallery.index import IndexedGallery, candidates_class

FORMAT = 1
FOLDER = "indexes"

Stamp = frozenset[tuple[str, int, int]]

_LAST_ROWS = 64
_READ_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a saved index is of."""

    format: int
    kind: str
    segment: int  # of the gallery, when it was saved
    rows: int  # how many of the gallery's first rows it covers
    dim: int
    last_rows_crc32: int  # of the vectors of the last rows covered: tells other rows from these
    settings: dict[str, Any]
    size_bytes: int
    crc32: int

    @property
    def file(self) -> str:
        """The name of what the library wrote."""
        return f"{self.kind}-{self.segment:06d}-{self.rows}-{self.crc32:08x}.index"

    def matches(self, gallery: IndexedGallery) -> bool:
        """Tell whether it was made of the rows that the gallery shows."""
        return (
            (self.segment, self.dim) == (gallery.segment, gallery.vectors.shape[1])
            and 0 < self.rows <= len(gallery.vectors)
            and self.last_rows_crc32 == _last_rows_crc32(gallery, self.rows)
        )


def stamp(folder: Path) -> Stamp:
    """Return what changes whenever an index is saved or removed: a few names, inodes and times."""
    try:
        with os.scandir(folder / FOLDER) as entries:
            found = [(e.name, e.stat()) for e in entries if e.name.endswith(".json")]
    except OSError:
        return frozenset()
    return frozenset((name, stat.st_ino, stat.st_mtime_ns) for name, stat in found)


def describe(folder: Path, kind: str) -> Description | None:
    """Return what the saved index of a kind is of; None where there is none that can be read."""
    try:
        values = json.loads((folder / FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
        found = from_dict(Description, values)
    except (OSError, ValueError, ConfigError):
        return None
    return found if (found.format, found.kind) == (FORMAT, kind) else None


def check(folder: Path, saved: Description) -> None:
    """Raise GalleryError where a byte of a saved index is wrong, or it is missing."""
    path = folder / FOLDER / saved.file
    with storage_errors(path):
        if (path.stat().st_size, _crc32(path)) != (saved.size_bytes, saved.crc32):
            raise GalleryError(f"{path}: this index is not what was written.")


def load(
    gallery: IndexedGallery, saved: Description, *, device: str, threads: int | None
) -> ApproximateIndex:
    """Return the saved index, once it was checked, over the gallery's vectors.

    Raises GalleryError where the library cannot read it, and BackendMissing without the library.
    """
    path = gallery.folder / FOLDER / saved.file
    cls, _ = candidates_class(saved.kind)
    try:
        settings = from_dict(cls.Settings, saved.settings)
        candidates = cls(saved.dim, settings, device=device, threads=threads)
        candidates.load(path)
    except BackendMissing:
        raise
    except Exception as error:  # libraries raise whatever a file leads them to
        raise GalleryError(f"{path}: this index cannot be used: {error}.") from error
    return ApproximateIndex(gallery.vectors, candidates, kind=saved.kind, covered=saved.rows)


def save(gallery: IndexedGallery, index: ApproximateIndex) -> Description:
    """Write the index, on disk when this returns; one saved before stays until then.

    Raises StorageFull or GalleryError, and leaves what was saved before.
    """
    folder = gallery.folder / FOLDER
    partial = folder / f"{index.kind}.partial"
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
        try:
            index.candidates.save(partial)
            _sync(partial)
            saved = Description(
                format=FORMAT,
                kind=index.kind,
                segment=gallery.segment,
                rows=index.covered,
                dim=gallery.vectors.shape[1],
                last_rows_crc32=_last_rows_crc32(gallery, index.covered),
                settings=to_dict(index.candidates.settings),
                size_bytes=partial.stat().st_size,
                crc32=_crc32(partial),
            )
            os.replace(partial, folder / saved.file)
            partial.write_text(json.dumps(to_dict(saved), indent=2) + "\n", encoding="utf-8")
            _sync(partial)
            sync_folder(folder)
            os.replace(partial, folder / f"{index.kind}.json")
            sync_folder(folder)
        finally:
            partial.unlink(missing_ok=True)
            _sweep(folder)
    return saved


def remove(folder: Path, *, but: str | None = None) -> None:
    """Remove what is saved, all kinds but one. Raises GalleryError."""
    with storage_errors(folder / FOLDER):
        for path in (folder / FOLDER).glob("*.json"):
            if path.stem != but:
                path.unlink()
        _sweep(folder / FOLDER)


def _sweep(folder: Path) -> None:
    """Remove what no description speaks of: what stood before, and what a power cut left."""
    described = (describe(folder.parent, path.stem) for path in folder.glob("*.json"))
    known = {found.file for found in described if found}
    for path in (*folder.glob("*.index"), *folder.glob("*.partial")):
        if path.name not in known:
            path.unlink()


def _last_rows_crc32(gallery: IndexedGallery, rows: int) -> int:
    last = gallery.vectors[max(0, rows - _LAST_ROWS) : rows]
    return zlib.crc32(np.ascontiguousarray(last).data)


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            checksum = zlib.crc32(part, checksum)
    return checksum


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
