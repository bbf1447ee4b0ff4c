"""Verification: every byte that a gallery committed, held against its checksum."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cir_rt import pictures
from cir_rt.errors import GalleryError, PictureError
from cir_rt.gallery.catalog import Catalog
from cir_rt.gallery.facts import Facts, Row
from cir_rt.gallery.item import THUMBNAIL_SIDE
from cir_rt.gallery.segment import Segment, row_checksums, token_segment, vector_segment

_TOGETHER = 512


def faults(folder: Path, catalog: Catalog, facts: Facts) -> list[str]:
    """Return what is wrong with a gallery at one generation, nothing if it is whole."""
    checks: list[Callable[[], Iterator[str]]] = [
        lambda: iter(catalog.faults()),
        lambda: _row_faults(catalog, facts),
        lambda: _vector_faults(vector_segment(folder, facts), catalog, facts),
    ]
    if facts.tokens:
        checks.append(lambda: _token_faults(token_segment(folder, facts), catalog, facts))
    found: list[str] = []
    for check in checks:
        try:
            found.extend(check())
        except GalleryError as error:
            found.append(str(error))
    return found


def thumbnail_fault(stored: Row, jpeg: bytes) -> str | None:
    """Say what is wrong with the thumbnail of a row, None if it is whole."""
    if not jpeg:
        return "thumbnail is lost."
    if zlib.crc32(jpeg) != stored.thumbnail_crc32:
        return "thumbnail differs from what was committed."
    try:
        size = pictures.load(jpeg).size
    except PictureError as error:
        return f"thumbnail cannot be decoded ({error})."
    return None if max(size) <= THUMBNAIL_SIDE else f"thumbnail is too large {size}."


def _row_faults(catalog: Catalog, facts: Facts) -> Iterator[str]:
    for first, stop in _parts(facts.rows):
        found = {stored.row: stored for stored in catalog.rows(facts, first, stop)}
        for row in range(first, stop):
            stored = found.get(row)
            if stored is None:
                yield f"{catalog.path}: row {row} is lost."
                continue
            if not stored.whole:
                yield f"{catalog.path}: {_name(stored)} differs from what was committed."
            fault = thumbnail_fault(stored, catalog.jpeg(facts, stored.key))
            if fault:
                yield f"{catalog.path}: {_name(stored)}: {fault}"


def _vector_faults(segment: Segment, catalog: Catalog, facts: Facts) -> Iterator[str]:
    mapped = segment.map(facts.rows)  # anew: the file may have shrunk since
    for first, stop in _parts(facts.rows):
        part = [stored for stored in catalog.rows(facts, first, stop) if stored.whole]
        rows = [stored.row for stored in part]
        checksums = [stored.vector_crc32 for stored in part]
        yield from _number_faults(segment, rows, checksums, mapped[rows])


def _token_faults(segment: Segment, catalog: Catalog, facts: Facts) -> Iterator[str]:
    file = segment.open()
    try:
        for first, stop in _parts(facts.token_rows):
            part = catalog.token_rows(facts, first, stop)
            if len(part) != stop - first:
                yield f"{catalog.path}: {stop - first - len(part)} rows of tokens have no picture."
            for place, _, crc32 in part:
                rows = segment.read(file, [place])
                yield from _number_faults(segment, [place], [crc32], rows)
    finally:
        os.close(file)


def _number_faults(
    segment: Segment, rows: Sequence[int], checksums: Sequence[int], stored: np.ndarray
) -> Iterator[str]:
    with np.errstate(all="ignore"):  # damage may make numbers of any size
        finite = np.isfinite(segment.format.decode(stored)).all(axis=segment.format.axes)
    for row, expected, found, sound in zip(
        rows, checksums, row_checksums(stored), finite, strict=True
    ):
        if found != expected:
            yield f"{segment.path}: row {row} differs from what was committed."
        if not sound:
            yield f"{segment.path}: row {row} holds numbers that are not finite."


def _parts(rows: int) -> Iterator[tuple[int, int]]:
    for first in range(0, rows, _TOGETHER):
        yield first, min(first + _TOGETHER, rows)


def _name(stored: Row) -> str:
    return f"row {stored.row} ({stored.id})"
