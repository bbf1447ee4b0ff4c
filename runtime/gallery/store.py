"""The gallery folder: what `index` writes and every search reads.

    gallery.sqlite       ids, metadata, source hashes, thumbnails, checksums, generation (catalog)
    vectors/000000.f32   the vectors, row by row (segment)
    lock                 held by the one writer; readers need none

`add` appends to the vectors' file, puts it on disk, and only then confirms the rows in one SQLite
transaction that also raises the generation. Whatever instant the power fails at, the next open
finds what was confirmed and nothing else.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np

from cir_rt import pictures
from cir_rt.errors import GalleryError, GalleryMismatch, PictureError, UnknownId, UsageError
from cir_rt.gallery.catalog import FORMAT, Batch, Catalog, Facts, records_crc32, storage_errors
from cir_rt.gallery.item import Item, is_id, metadata_json
from cir_rt.gallery.segment import Segment, sync_folder

__all__ = ["Gallery", "Item"]

FolderPath = Union[str, "os.PathLike[str]"]

MAX_THUMBNAIL_PIXELS = 256

_VERIFY_ROWS = 512


class Gallery:
    """Pictures of one model, on disk; row = position in the vectors' file.

    What it shows stands still at one generation until `refresh`, or until its own `add` or
    `delete`. Owned by one thread at a time; arrays that it gave out stay valid for ever.
    """

    def __init__(self, folder: Path, catalog: Catalog, lock: int | None = None) -> None:
        """Use `Gallery.open` or `Gallery.open_writer`."""
        self.folder = folder
        self._catalog = catalog
        self._lock = lock
        self._show(catalog.facts())

    @classmethod
    def open(cls, folder: FolderPath, *, fingerprint: str | None = None) -> Gallery:
        """Open for reading.

        Raises GalleryError where there is no gallery or it is of another format version, and
        GalleryMismatch where it belongs to a model other than fingerprint.
        """
        path = Path(folder)
        if not (path / "gallery.sqlite").is_file():
            raise GalleryError(_missing(path))
        catalog = Catalog(path / "gallery.sqlite", writable=False)
        try:
            if catalog.format == 0:
                raise GalleryError(_missing(path))
            _check_format(path, catalog)
            gallery = cls(path, catalog)
            gallery._check_model(fingerprint, None)
        except BaseException:
            catalog.close()
            raise
        return gallery

    @classmethod
    def open_writer(cls, folder: FolderPath, *, fingerprint: str, dim: int) -> Gallery:
        """Open for reading and writing, as the only writer; make the gallery where none is.

        Raises GalleryError where another writer holds it, GalleryMismatch where it belongs to
        another model, and GalleryError where the folder holds something else.
        """
        path = Path(folder)
        if not fingerprint or dim < 1:
            raise UsageError(f"fingerprint {fingerprint!r} and dim {dim}: expected a model's.")
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            _refuse_other_content(path)
            lock = _lock(path)
        catalog = None
        try:
            catalog = Catalog(path / "gallery.sqlite", writable=True)
            if catalog.format == 0:
                with storage_errors(path):
                    Segment(_segment_path(path, 0), dim).create()
                    sync_folder(path.absolute().parent)
                catalog.create(fingerprint, dim)
            _check_format(path, catalog)
            gallery = cls(path, catalog, lock)
            gallery._check_model(fingerprint, dim)
        except BaseException:
            if catalog is not None:
                catalog.close()
            os.close(lock)
            raise
        return gallery

    def _show(self, facts: Facts) -> None:
        segment = Segment(_segment_path(self.folder, facts.segment), facts.dim)
        live = np.ones(facts.rows, bool)
        live[self._catalog.dead_rows(facts)] = False
        live.flags.writeable = False
        try:
            self._vectors: np.ndarray | None = segment.map(facts.rows)
        except GalleryError:  # told when they are asked for, so that `verify` may run
            self._vectors = None
        self._facts, self._segment, self._live = facts, segment, live
        self._size = int(np.count_nonzero(live))

    def _check_model(self, fingerprint: str | None, dim: int | None) -> None:
        if fingerprint is not None and fingerprint != self.fingerprint:
            raise GalleryMismatch(
                f"{self.folder}: made by model {self.fingerprint[:12]}; the bundle at hand is "
                f"{fingerprint[:12]}. Index the pictures again:  "
                "cir-rt index BUNDLE IMAGE_DIR --gallery NEW"
            )
        if dim is not None and dim != self.dim:
            raise GalleryMismatch(
                f"{self.folder}: holds vectors of {self.dim} numbers; the bundle at hand gives "
                f"{dim}. Index the pictures again:  cir-rt index BUNDLE IMAGE_DIR --gallery NEW"
            )

    @property
    def generation(self) -> int:
        """The number of the commit that is shown; each `add` and `delete` raises it by one."""
        return self._facts.generation

    @property
    def fingerprint(self) -> str:
        """The model that the vectors are of."""
        return self._facts.fingerprint

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self._facts.dim

    @property
    def vectors(self) -> np.ndarray:
        """All rows, dead ones included: (rows, dim) float32, mapped and read only.

        Raises GalleryError where the file is missing or short.
        """
        if self._vectors is None:
            self._vectors = self._segment.map(self._facts.rows)
        return self._vectors

    @property
    def live(self) -> np.ndarray:
        """Which rows a search may return: (rows,) bool, read only; False where deleted."""
        return self._live

    def __len__(self) -> int:
        return self._size

    def __contains__(self, item_id: object) -> bool:
        return is_id(item_id) and self._catalog.row(self._facts, item_id) is not None

    def __repr__(self) -> str:
        return (
            f"Gallery({str(self.folder)!r}, {self._size} pictures, dim {self.dim}, "
            f"generation {self.generation}, model {self.fingerprint[:12]})"
        )

    def ids(self) -> list[str]:
        """Return the ids in row order."""
        return self._catalog.ids(self._facts)

    def row(self, item_id: str) -> int:
        """Return the row of an id; raises UnknownId, which names the nearest ids."""
        row = self._catalog.row(self._facts, item_id) if is_id(item_id) else None
        if row is None:
            raise UnknownId(self._unknown(item_id))
        return row

    def vector(self, item_id: str) -> np.ndarray:
        """Return a copy of the vector of an id: (dim,) float32; raises UnknownId."""
        return np.array(self.vectors[self.row(item_id)])

    def thumbnail(self, item_id: str) -> bytes:
        """Return the thumbnail of an id, a JPEG; raises UnknownId."""
        return self._catalog.thumbnail(self._facts, self.row(item_id))

    def items(self, rows: Iterable[int]) -> list[tuple[str, dict[str, Any]]]:
        """Return (id, metadata) of live rows, in the order asked; GalleryError for other rows."""
        found = []
        for row in rows:
            described = self._catalog.described(self._facts, int(row))
            if described is None:
                raise GalleryError(
                    f"{self.folder}: row {row} holds no picture. Expected a live row below "
                    f"{self._facts.rows}."
                )
            found.append((described[0], json.loads(described[2])))
        return found

    def source_hashes(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the source hash of each of these ids that the gallery holds."""
        found = {}
        for item_id in ids:
            if item_id in self:
                described = self._catalog.described(self._facts, self.row(item_id))
                assert described is not None
                found[item_id] = described[1]
        return found

    def unchanged(self, item_id: str, source_hash: str, metadata: Mapping[str, Any]) -> bool:
        """Tell whether this very picture and metadata are stored, so that `add` can be spared."""
        if item_id not in self:
            return False
        described = self._catalog.described(self._facts, self.row(item_id))
        return described == (item_id, source_hash, metadata_json(item_id, metadata))

    def refresh(self) -> bool:
        """Move to the newest generation; True where a writer committed one since."""
        facts = self._catalog.facts()
        if facts == self._facts:
            return False
        self._show(facts)
        return True

    def add(self, items: Sequence[Item]) -> None:
        """Store all items or none; they are safe on disk when this returns.

        An id that is held already is updated: its old row dies, a new row is appended. Raises
        GalleryError before any work for a bad item or an id given twice, and StorageFull.
        """
        self._check_writer()
        records = [item.record(self.dim) for item in items]
        repeated = len(records) - len({record.id for record in records})
        if repeated:
            raise GalleryError(f"{repeated} ids are given twice in one batch. Expected each once.")
        if not records:
            return
        self.refresh()  # an interrupt may have struck between the last commit and its showing
        vectors = np.stack([item.vector for item in items])
        with storage_errors(self._segment.path):
            self._segment.append(vectors, self._facts.rows)
        # NOTE: where the commit fails the appended rows stay: should its log reach the disk after
        # all, they are what it speaks of. The next `add` writes over them.
        self._catalog.commit_added(self._facts, records, zlib.crc32(vectors.data))
        self.refresh()

    def delete(self, ids: Iterable[str]) -> int:
        """Delete all of these ids or none, and return how many; UnknownId for one not held."""
        self._check_writer()
        self.refresh()
        chosen = list(dict.fromkeys(ids))
        for item_id in chosen:
            self.row(item_id)
        if chosen:
            self._catalog.commit_deleted(self._facts, chosen)
            self.refresh()
        return len(chosen)

    def verify(self) -> list[str]:
        """Check every byte that was committed and return the faults found, none if whole."""
        faults: list[str] = []
        for check in (self._catalog.faults, self._row_faults, self._vector_faults):
            try:
                faults += check()
            except GalleryError as error:
                faults.append(str(error))
        return faults

    def _row_faults(self) -> list[str]:
        faults, next_row = [], 0
        for batch in self._catalog.batches(self._facts):
            if batch.first_row != next_row:
                faults.append(f"{self._catalog.path}: no checksum covers row {next_row}.")
            next_row = batch.first_row + batch.rows
            faults += self._batch_faults(batch)
        if next_row != self._facts.rows:
            faults.append(f"{self._catalog.path}: checksums end at row {next_row}.")
        return faults

    def _batch_faults(self, batch: Batch) -> list[str]:
        faults, count, checksum = [], 0, 0
        stop = batch.first_row + batch.rows
        for first in range(batch.first_row, stop, _VERIFY_ROWS):
            found = self._catalog.records(self._facts, first, min(first + _VERIFY_ROWS, stop))
            count += len(found)
            checksum = records_crc32((record for _, record in found), checksum)
            for row, record in found:
                fault = _thumbnail_fault(record.thumbnail)
                if fault:
                    faults.append(f"{self._catalog.path}: row {row} ({record.id}): {fault}")
        if count != batch.rows or checksum != batch.items_crc32:
            faults.append(
                f"{self._catalog.path}: rows {batch.first_row} to {stop - 1} "
                "differ from what was committed."
            )
        return faults

    def _vector_faults(self) -> list[str]:
        faults = []
        vectors = self._segment.map(self._facts.rows)  # anew: the file may have shrunk since
        for batch in self._catalog.batches(self._facts):
            stop = batch.first_row + batch.rows
            part = vectors[batch.first_row : stop]
            where = f"{self._segment.path}: rows {batch.first_row} to {stop - 1}"
            if zlib.crc32(part.data) != batch.vectors_crc32:
                faults.append(f"{where} differ from what was committed.")
            if not np.isfinite(part).all():
                faults.append(f"{where} hold vectors that are not finite.")
        return faults

    def close(self) -> None:
        """Close the files and let the next writer in; arrays that were given out stay valid."""
        self._catalog.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_writer(self) -> None:
        if self._lock is None:
            raise GalleryError(
                f"{self.folder}: opened for reading. Open it with Gallery.open_writer."
            )

    def _unknown(self, item_id: object) -> str:
        nearest = self._catalog.nearest(self._facts, item_id) if is_id(item_id) else []
        hint = f" Nearest: {', '.join(nearest)}." if nearest else " Expected an id as indexed."
        return f"{self.folder}: no picture {str(item_id)[:80]!r} among {self._size}.{hint}"


def _segment_path(folder: Path, number: int) -> Path:
    return folder / "vectors" / f"{number:06d}.f32"


def _missing(folder: Path) -> str:
    return f"{folder}: no gallery here. Make one:  cir-rt index BUNDLE IMAGE_DIR --gallery {folder}"


def _check_format(folder: Path, catalog: Catalog) -> None:
    if catalog.format != FORMAT:
        raise GalleryError(
            f"{folder}: gallery of format {catalog.format}; this cir-rt reads format {FORMAT}. "
            "Use the cir-rt that wrote it, or index the pictures again:  "
            "cir-rt index BUNDLE IMAGE_DIR --gallery NEW"
        )


def _lock(folder: Path) -> int:
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise GalleryError(
            f"{folder}: held by another writer. Wait until it is done, or stop it, and retry."
        ) from error
    except BaseException:
        os.close(file)
        raise
    return file


def _refuse_other_content(folder: Path) -> None:
    """Refuse a folder that is neither a gallery nor one whose making was interrupted."""
    if (folder / "gallery.sqlite").exists():
        return
    other = {path.name for path in folder.iterdir()} - {"lock", "vectors"}
    filled = [path for path in folder.glob("vectors/*") if path.stat().st_size]
    if other or filled:
        name = min(other) if other else f"vectors/{filled[0].name}"
        raise GalleryError(
            f"{folder}: holds '{name}' and no gallery.sqlite. Expected a gallery, or a new or "
            "empty folder."
        )


def _thumbnail_fault(thumbnail: bytes) -> str | None:
    if not thumbnail:
        return "thumbnail is lost."
    try:
        size = pictures.load(thumbnail).size
    except PictureError as error:
        return f"thumbnail cannot be decoded ({error})."
    return None if max(size) <= MAX_THUMBNAIL_PIXELS else f"thumbnail is too large {size}."
