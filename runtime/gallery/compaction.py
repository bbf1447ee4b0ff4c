"""Compaction: the living rows of a gallery move to new segments, the dead ones are forgotten.

The new segments are whole on disk before one transaction of the catalogue turns to them, and the
old ones are removed after it. Killed at any instant, the gallery is the old or the new one; what
is left over goes when the next writer opens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cir_rt.errors import GalleryError
from cir_rt.gallery.catalog import Catalog
from cir_rt.gallery.disk import storage_errors, sync_folder
from cir_rt.gallery.facts import NEVER, Facts
from cir_rt.gallery.segment import Segment, row_checksums, token_segment, vector_segment

WORTHWHILE = 0.15  # share of dead rows from which on it pays: they add a sixth to the disk at most

_PART_BYTES = 1 << 22


def compact(folder: Path, catalog: Catalog, facts: Facts) -> None:
    """Write the living rows anew and turn the catalogue to them.

    In memory there are some megabytes, whatever the gallery holds. Raises StorageFull, and
    GalleryError where a living row is not what was committed: compacting would make it look whole.
    """
    after = replace(facts, segment=facts.segment + 1, generation=facts.generation + 1)
    try:
        rows = _move(
            vector_segment(folder, facts), vector_segment(folder, after), _vectors(catalog, facts)
        )
        after = replace(after, rows=rows)
        if facts.tokens:
            old, new = token_segment(folder, facts), token_segment(folder, after)
            after = replace(after, token_rows=_move(old, new, _tokens(catalog, facts)))
    except GalleryError:
        remove_leftovers(folder, facts)
        raise
    # NOTE: where the commit fails both segments stay: should its log reach the disk after all, the
    # new ones are what it speaks of. The next writer to open knows which to remove.
    catalog.commit_compacted(after)


def remove_leftovers(folder: Path, facts: Facts) -> None:
    """Remove segments that no reader will ask for again; one who mapped them keeps them."""
    for kind in ("vectors", "tokens"):
        found = [p for p in folder.glob(f"{kind}/*") if p.stem != f"{facts.segment:06d}"]
        for path in found:
            path.unlink()
        if found:
            sync_folder(folder / kind)


def _vectors(catalog: Catalog, facts: Facts) -> Iterator[list[tuple[int, int]]]:
    """Yield (row, crc32) of the living rows, part by part."""
    step = max(1, _PART_BYTES // facts.vectors.row_bytes)
    for first in range(0, facts.rows, step):
        part = catalog.rows(facts, first, min(first + step, facts.rows))
        for stored in part:
            if not stored.whole:
                raise GalleryError(f"{catalog.path}: row {stored.row} is damaged. {_REPAIR}")
        yield [(stored.row, stored.vector_crc32) for stored in part if stored.died == NEVER]


def _tokens(catalog: Catalog, facts: Facts) -> Iterator[list[tuple[int, int]]]:
    """Yield (place, crc32) of the living pictures' tokens, part by part."""
    assert facts.tokens
    step = max(1, _PART_BYTES // facts.tokens.rows.row_bytes)
    for first in range(0, facts.token_rows, step):
        part = catalog.token_rows(facts, first, min(first + step, facts.token_rows))
        yield [(place, crc32) for place, died, crc32 in part if died == NEVER]


def _move(old: Segment, new: Segment, parts: Iterator[list[tuple[int, int]]]) -> int:
    """Copy rows with these checksums from one segment to the start of another; return how many."""
    with storage_errors(new.path):
        new.create()
        new.append(new.format.empty(0), 0)
    count, file = 0, old.open()
    try:
        for part in parts:
            rows = old.read(file, [row for row, _ in part])
            _check(old, part, rows)
            with storage_errors(new.path):
                new.append(rows, count)
            count += len(part)
    finally:
        os.close(file)
    return count


def _check(segment: Segment, part: Sequence[tuple[int, int]], rows: np.ndarray) -> None:
    for (row, crc32), found in zip(part, row_checksums(rows), strict=True):
        if found != crc32:
            raise GalleryError(f"{segment.path}: row {row} is damaged. {_REPAIR}")


_REPAIR = "Keep what is whole:  cir-rt inspect GALLERY --repair"
