"""The gallery folder: what `index` writes and every search reads.

    gallery.sqlite       ids, metadata, source hashes, thumbnails, checksums, generation (catalog)
    vectors/000000.f32   the vectors, row by row (segment); .f16 or .i8 in another precision
    tokens/000000.i8     candidate tokens for re-ranking, of pictures that have them (segment)
    indexes/             derived from the vectors, may be lost (index)
    lock                 held by the one writer; readers need none

`add` appends to the segments, puts them on disk, and only then confirms the rows in one SQLite
transaction that also raises the generation. Whatever instant the power fails at, the next open
finds what was confirmed and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Union

import numpy as np

from cir_rt.errors import GalleryError, UsageError
from cir_rt.gallery import addition, admission, backup, compaction, verification
from cir_rt.gallery.catalog import Catalog
from cir_rt.gallery.disk import storage_errors
from cir_rt.gallery.facts import Facts, Row, TokenFormat
from cir_rt.gallery.item import Item, is_id, metadata_json
from cir_rt.gallery.quota import check_quota, folder_bytes
from cir_rt.gallery.segment import token_segment, vector_segment
from cir_rt.gallery.tokens import LocatedTokens, StoredTokens
from cir_rt.gallery.vectors import Vectors

FolderPath = Union[str, "os.PathLike[str]"]


class Gallery:
    """Pictures of one model, on disk; row = position in the vectors' file.

    What it shows stands still at one generation until `refresh`, or until its own `add`, `delete`
    or `compact`. Owned by one thread at a time; arrays that it gave out stay valid for ever.
    """

    def __init__(self, folder: Path, catalog: Catalog, lock: int | None = None) -> None:
        """Use `Gallery.open` or `Gallery.open_writer`."""
        self.folder = folder
        self._catalog = catalog
        self._lock = lock
        facts = catalog.facts()
        self._tokens = StoredTokens(folder, catalog, facts)
        self._show(facts)

    @classmethod
    def open(
        cls,
        folder: FolderPath,
        *,
        fingerprint: str | None = None,
        token_fingerprint: str | None = None,
    ) -> Gallery:
        """Open for reading.

        Raises GalleryError where there is no gallery or it is of another format version, and
        GalleryMismatch where vectors or candidate tokens belong to a model other than asked for.
        """
        path = Path(folder)
        catalog = admission.open_catalog(path)
        try:
            gallery = cls(path, catalog)
            admission.check_model(path, gallery._facts, fingerprint)
            admission.check_token_model(path, gallery._facts, token_fingerprint)
        except BaseException:
            catalog.close()
            raise
        return gallery

    @classmethod
    def open_writer(
        cls,
        folder: FolderPath,
        *,
        fingerprint: str,
        dim: int,
        precision: str | None = None,
        tokens: TokenFormat | None = None,
        quota_bytes: int | None = None,
        wait_s: float = 0.0,
    ) -> Gallery:
        """Open for reading and writing, as the only writer; make the gallery where none is.

        precision is fp32 unless said, for all the gallery's life; tokens says what candidate tokens
        will be added, quota_bytes what the folder may take; both stay from then on. Raises
        GalleryError where another writer holds it after wait_s or the folder holds something else,
        and GalleryMismatch where it is of another model, precision or kind of tokens.
        """
        path = Path(folder)
        if not fingerprint or dim < 1:
            raise UsageError(f"fingerprint {fingerprint!r} and dim {dim}: expected a model's.")
        facts = Facts(fingerprint=fingerprint, dim=dim, precision=precision or "fp32")
        _ = facts.vectors  # a precision that is not known is refused before any work
        catalog, lock = admission.open_writable(path, facts, wait_s)
        try:
            gallery = cls(path, catalog, lock)
            admission.check_model(path, gallery._facts, fingerprint, dim, precision)
            gallery._take_up(tokens, quota_bytes)
        except BaseException:
            catalog.close()
            os.close(lock)
            raise
        return gallery

    def _take_up(self, tokens: TokenFormat | None, quota_bytes: int | None) -> None:
        """Begin to write: what an interrupted compaction left goes, what was asked for is noted."""
        with storage_errors(self.folder):
            compaction.remove_leftovers(self.folder, self._facts)
        if tokens is not None and self._facts.tokens is None:
            facts = self._facts.with_tokens(tokens)
            with storage_errors(self.folder):
                token_segment(self.folder, facts).create()
            self._catalog.commit_facts(facts)
            self.refresh()
        if tokens is not None:
            admission.check_tokens(self.folder, self._facts, tokens)
        if quota_bytes is not None:
            self.set_quota(quota_bytes)

    def _show(self, facts: Facts) -> None:
        try:
            dead = self._catalog.dead_rows(facts)
            vectors: Vectors | None = self._mapped(facts)
        except GalleryError:
            newest = self._catalog.facts()
            if newest.segment != facts.segment:  # compacted between one look and the next
                self._show(newest)
                return
            dead, vectors = self._catalog.dead_rows(facts), None
        live = np.ones(facts.rows, bool)
        live[dead] = False
        live.flags.writeable = False
        # Vectors that are not there are told of when they are asked for, so that `verify` may run.
        self._vectors = vectors
        self._tokens.close()
        self._tokens = StoredTokens(self.folder, self._catalog, facts)
        self._facts, self._live = facts, live
        self._size = int(np.count_nonzero(live))

    def _mapped(self, facts: Facts) -> Vectors:
        return Vectors(vector_segment(self.folder, facts), facts.rows)

    @property
    def generation(self) -> int:
        """The number of the commit that is shown; each change of the pictures raises it by one."""
        return self._facts.generation

    @property
    def segment(self) -> int:
        """The numbering of rows that is shown: a row means another picture in another one."""
        return self._facts.segment

    @property
    def fingerprint(self) -> str:
        """The model that the vectors are of."""
        return self._facts.fingerprint

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self._facts.dim

    @property
    def precision(self) -> str:
        """How the vectors are stored: fp32, fp16 or int8."""
        return self._facts.precision

    @property
    def token_format(self) -> TokenFormat | None:
        """What the candidate tokens are; None where no tokens are kept."""
        return self._facts.tokens

    @property
    def vectors(self) -> Vectors:
        """All rows, dead ones included, as (rows, dim) float32.

        Raises GalleryError where the file is missing or short.
        """
        if self._vectors is None:
            self._vectors = self._mapped(self._facts)
        return self._vectors

    @property
    def live(self) -> np.ndarray:
        """Which rows a search may return: (rows,) bool, read only; False where deleted."""
        return self._live

    @property
    def wasted(self) -> float:
        """The share of rows that are dead; from compaction.WORTHWHILE on `compact` pays."""
        return 1 - self._size / self._facts.rows if self._facts.rows else 0.0

    @property
    def size_bytes(self) -> int:
        """What the folder takes on disk, derived indexes and SQLite's log included."""
        return folder_bytes(self.folder)

    @property
    def quota_bytes(self) -> int | None:
        """What the folder may take; None where there is no limit."""
        return self._facts.quota_bytes

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

    def ids_without_tokens(self, among: Sequence[str] | None = None) -> list[str]:
        """Return the ids, among some or all, whose tokens were never added, in row order."""
        return self._catalog.ids_without_tokens(self._facts, among)

    def matching(self, condition: str, values: Sequence[Any] = ()) -> np.ndarray:
        """Return the live rows whose items meet a condition in SQL: (n,) int64, in row order."""
        return self._catalog.matching(self._facts, condition, values)

    def row(self, item_id: str) -> int:
        """Return the row of an id; raises UnknownId, which names the nearest ids."""
        return self._catalog.held_row(self._facts, item_id)

    def vector(self, item_id: str) -> np.ndarray:
        """Return a copy of the vector of an id: (dim,) float32; raises UnknownId."""
        return np.array(self.vectors[self.row(item_id)])

    def tokens(self, rows: Iterable[int]) -> np.ndarray:
        """Return the candidate tokens of live rows, in the order asked: (n, tokens, width) float32.

        Raises GalleryError for a row that has none.
        """
        return self._tokens.decoded(rows)

    def located_tokens(self, rows: Iterable[int], fingerprint: str | None = None) -> LocatedTokens:
        """Find the candidate tokens of live rows, for any thread to read; raises as `tokens`.

        GalleryMismatch where they are of another model than asked for.
        """
        return self._tokens.located(rows, fingerprint)

    def thumbnail(self, item_id: str) -> bytes:
        """Return the thumbnail of an id, a JPEG; raises UnknownId."""
        return self._catalog.thumbnail(self._facts, self.row(item_id))

    def items(self, rows: Iterable[int]) -> list[tuple[str, dict[str, Any]]]:
        """Return (id, metadata) of live rows, in the order asked; GalleryError for other rows."""
        found = []
        for row in rows:
            stored = self._catalog.described(self._facts, int(row))
            if stored is None:
                raise GalleryError(
                    f"{self.folder}: row {row} holds no picture. Expected a live row below "
                    f"{self._facts.rows}."
                )
            found.append((stored.id, json.loads(stored.metadata)))
        return found

    def source_hashes(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the source hash of each of these ids that the gallery holds."""
        stored = {item_id: self._stored(item_id) for item_id in ids}
        return {item_id: row.source_hash for item_id, row in stored.items() if row}

    def unchanged(self, item_id: str, source_hash: str, metadata: Mapping[str, Any]) -> bool:
        """Tell whether this very picture and metadata are stored, so that `add` can be spared."""
        stored = self._stored(item_id)
        expected = source_hash, metadata_json(item_id, metadata)
        return stored is not None and (stored.source_hash, stored.metadata) == expected

    def _stored(self, item_id: str) -> Row | None:
        row = self._catalog.row(self._facts, item_id) if is_id(item_id) else None
        return None if row is None else self._catalog.described(self._facts, row)

    def refresh(self) -> bool:
        """Move to the newest generation; True where a writer committed one since."""
        facts = self._catalog.facts()
        if facts == self._facts:
            return False
        self._show(facts)
        return True

    def add(self, items: Sequence[Item]) -> None:
        """Store all items or none; they are safe on disk when this returns.

        An id that is held already is updated: its old row dies, a new row is appended; where
        nothing about it is new, nothing is done. Raises GalleryError before any work for a bad
        item or an id given twice, and StorageFull.
        """
        self._check_writer()
        self.refresh()  # an interrupt may have struck between the last commit and its showing
        self._append(addition.plan(self._catalog, self._facts, items))

    def add_tokens(self, tokens: Mapping[str, np.ndarray]) -> None:
        """Store the candidate tokens of these ids, all or none: (tokens, width) float32 each.

        Raises UnknownId, GalleryError for tokens that do not fit or differ from those that a
        picture has, and StorageFull.
        """
        self._check_writer()
        self.refresh()
        self._append(addition.plan_tokens(self._catalog, self._facts, tokens))

    def _append(self, added: addition.Addition) -> None:
        if added:
            check_quota(self.folder, self._catalog, self.quota_bytes, added.size_bytes)
            addition.commit(self.folder, self._catalog, self._facts, added)
            self.refresh()

    def delete(self, ids: Iterable[str]) -> int:
        """Delete all of these ids or none, and return how many; UnknownId for one not held."""
        self._check_writer()
        self.refresh()
        if chosen := list(dict.fromkeys(ids)):
            for item_id in chosen:
                self.row(item_id)
            self._catalog.commit_deleted(self._facts, chosen)
            self.refresh()
        return len(chosen)

    def compact(self) -> int:
        """Give the space of dead rows back to the disk, and return how many they were.

        Readers search on meanwhile; those that look up a row by its old number are told to
        `refresh`. Raises StorageFull where a copy of the living rows finds no room, and
        GalleryError where one of them is damaged.
        """
        self._check_writer()
        self.refresh()
        dead = self._facts.rows - self._size
        if dead:
            compaction.compact(self.folder, self._catalog, self._facts)
            self.refresh()
            with storage_errors(self.folder):
                compaction.remove_leftovers(self.folder, self._facts)
            self._catalog.shrink()
        return dead

    def set_quota(self, quota_bytes: int | None) -> None:
        """Limit what the folder may take from now on; None lifts the limit."""
        self._check_writer()
        if quota_bytes is not None and quota_bytes < 1:
            raise UsageError(f"quota of {quota_bytes} bytes. Expected 1 or more, or None.")
        self.refresh()
        if quota_bytes != self.quota_bytes:
            self._catalog.commit_facts(replace(self._facts, quota_bytes=quota_bytes))
            self.refresh()

    def backup(self, folder: FolderPath) -> None:
        """Copy one generation to a new folder, itself a gallery, while a writer may go on.

        Raises GalleryError where the folder exists, and StorageFull.
        """
        backup.backup(self.folder, self._catalog, Path(folder))

    def verify(self) -> list[str]:
        """Check every byte that was committed and return the faults found, none if whole."""
        found = verification.faults(self.folder, self._catalog, self._facts)
        if found and self._catalog.facts().segment != self._facts.segment:  # compacted meanwhile
            self.refresh()
            return self.verify()
        return found

    def close(self) -> None:
        """Close the files and let the next writer in; arrays that were given out stay valid."""
        self._catalog.close()
        self._tokens.close()
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
