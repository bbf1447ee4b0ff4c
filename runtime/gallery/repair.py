"""Repair of a damaged gallery: what is whole is kept, what is lost is named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import numpy as np

from cir_rt.errors import GalleryError
from cir_rt.gallery import addition, admission, backup, verification
from cir_rt.gallery.addition import Addition
from cir_rt.gallery.catalog import Catalog
from cir_rt.gallery.disk import lock_folder, storage_errors, sync_folder
from cir_rt.gallery.facts import NEVER, Facts, Record, Row
from cir_rt.gallery.segment import Segment, row_checksums, token_segment, vector_segment

_KEYS_TOGETHER = 1024
_PICTURES_TOGETHER = 64


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What became of a damaged gallery."""

    kept: int  # pictures
    lost: tuple[str, ...]  # ids whose row, vector or thumbnail is not what was committed
    unnamed: int  # rows of which not even the id can be read, dead ones among them
    without_tokens: tuple[str, ...]  # ids that are kept, but lost their candidate tokens
    damaged: Path | None  # where the damaged folder is kept; None where nothing was wrong


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """One picture that is whole."""

    record: Record
    vector: np.ndarray  # (1, …) as stored
    tokens: np.ndarray | None  # (1, …) as stored


def repair(folder: Path) -> RepairReport:
    """Put what is whole of a gallery in its place; the damaged folder is kept beside it.

    A picture is whole where the checksums of its row, vector and thumbnail hold. The gallery stays
    as it is until the repaired one is whole on disk. Raises GalleryError where not even the
    gallery's facts can be read or another writer holds it, and StorageFull.
    """
    folder = folder.absolute()
    with storage_errors(folder):
        lock = lock_folder(folder)
    try:
        with closing(admission.open_catalog(folder)) as catalog:
            facts = catalog.facts()
            if verification.faults(folder, catalog, facts):
                return _replaced(folder, catalog, facts)
            kept = facts.rows - len(catalog.dead_rows(facts))
            return RepairReport(kept=kept, lost=(), unnamed=0, without_tokens=(), damaged=None)
    finally:
        os.close(lock)


def _replaced(folder: Path, catalog: Catalog, facts: Facts) -> RepairReport:
    salvage = _Salvage(folder, catalog, facts)
    with storage_errors(folder), backup.being_made(folder) as made:
        kept = _rebuild(made, facts, salvage.pictures())
        lost = {**salvage.lost, **dict.fromkeys(catalog.indexed_ids())}
        backup.put_in_place(made, folder)
        damaged = _free_name(folder)
        os.rename(made, damaged)
        sync_folder(folder.parent)
    return RepairReport(
        kept=len(kept),
        lost=tuple(item_id for item_id in lost if item_id not in kept),
        unnamed=facts.rows - salvage.rows,
        without_tokens=tuple(salvage.without_tokens),
        damaged=damaged,
    )


class _Salvage:
    """The living pictures of a damaged gallery that are whole, and what is not."""

    def __init__(self, folder: Path, catalog: Catalog, facts: Facts) -> None:
        self._catalog, self._facts = catalog, facts
        self._vectors = vector_segment(folder, facts)
        self._tokens = token_segment(folder, facts) if facts.tokens else None
        self.rows = 0  # that could be read
        self.lost: dict[str, None] = {}
        self.without_tokens: list[str] = []

    def pictures(self) -> Iterator[_Picture]:
        """Yield what is whole, in the order of their keys."""
        for first in range(0, self._facts.next_key, _KEYS_TOGETHER):
            for row in self._rows(first, min(first + _KEYS_TOGETHER, self._facts.next_key)):
                self.rows += 1
                if row.died == NEVER:
                    picture = self._picture(row)
                    if picture is None:
                        self.lost[str(row.id)] = None
                    else:
                        yield picture

    def _rows(self, first_key: int, stop_key: int) -> Iterator[Row]:
        """Yield the rows that SQLite can read, halving a range until the bad ones stand alone."""
        try:
            found = self._catalog.rows_of_keys(self._facts, first_key, stop_key)
        except GalleryError:
            found = []
            if stop_key - first_key > 1:
                middle = (first_key + stop_key) // 2
                yield from self._rows(first_key, middle)
                yield from self._rows(middle, stop_key)
        yield from found

    def _picture(self, row: Row) -> _Picture | None:
        if not row.whole:
            return None
        try:
            jpeg = self._catalog.jpeg(self._facts, row.key)
        except GalleryError:
            return None
        vector = _checked(self._vectors, row.row, row.vector_crc32)
        if vector is None or verification.thumbnail_fault(row, jpeg):
            return None
        record = Record(row.id, row.source_hash, row.metadata, jpeg)
        return _Picture(record=record, vector=vector, tokens=self._tokens_of(row))

    def _tokens_of(self, row: Row) -> np.ndarray | None:
        if self._tokens is None:
            return None
        try:
            held = self._catalog.token(self._facts, row.key)
        except GalleryError:
            self.without_tokens.append(row.id)
            return None
        found = _checked(self._tokens, *held) if held else None
        if held and found is None:
            self.without_tokens.append(row.id)
        return found


def _checked(segment: Segment, row: int, crc32: int) -> np.ndarray | None:
    """Return a stored row, None where it cannot be read or is not what was committed."""
    try:
        file = segment.open()
    except GalleryError:
        return None
    try:
        found = segment.read(file, [row])
    except GalleryError:
        return None
    finally:
        os.close(file)
    return found if row_checksums(found) == [crc32] else None


def _rebuild(made: Path, before: Facts, pictures: Iterator[_Picture]) -> set[str]:
    """Write a gallery of these pictures into an empty folder, and return their ids."""
    empty = replace(
        before,
        segment=before.segment + 1,
        rows=0,
        generation=before.generation + 1,
        next_key=0,
        token_rows=0,
    )
    ids: set[str] = set()
    vector_segment(made, empty).create()
    if empty.tokens:
        token_segment(made, empty).create()
    with closing(Catalog(made / "gallery.sqlite", writable=True)) as catalog:
        catalog.create(empty)
        while part := list(islice(pictures, _PICTURES_TOGETHER)):
            facts = catalog.facts()
            addition.commit(made, catalog, facts, _together(facts, part))
            ids.update(picture.record.id for picture in part)
        for fault in verification.faults(made, catalog, catalog.facts()):
            raise GalleryError(f"{made}: written to a disk that does not keep it. {fault}")
    return ids


def _together(facts: Facts, part: Sequence[_Picture]) -> Addition:
    keyed = [(i, p.tokens) for i, p in enumerate(part, facts.next_key) if p.tokens is not None]
    tokens = [rows for _, rows in keyed]
    return Addition(
        records=[picture.record for picture in part],
        vectors=np.concatenate([picture.vector for picture in part]),
        tokens=np.concatenate(tokens) if tokens else addition.no_tokens(facts),
        token_keys=[key for key, _ in keyed],
    )


def _free_name(folder: Path) -> Path:
    """Return a name beside a folder that says what it holds."""
    names = (folder.with_name(f"{folder.name}.damaged-{number}") for number in count(1))
    return next(path for path in names if not path.exists())
