"""What one `add` changes: which pictures are new, and the rows that its segments will hold."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cir_rt.errors import GalleryError
from cir_rt.gallery.catalog import Catalog
from cir_rt.gallery.disk import storage_errors
from cir_rt.gallery.facts import Facts, Record, Row
from cir_rt.gallery.item import Item, check_tokens
from cir_rt.gallery.segment import row_checksums, token_segment, vector_segment

_PAGE_BYTES = 4096
_COMMIT_PAGES, _PICTURE_PAGES = 16, 2  # of SQLite's file and log, besides the bytes themselves


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Rows to append to the segments, and what the catalogue is to say of them."""

    records: Sequence[Record]
    vectors: np.ndarray  # as stored, one for each record
    tokens: np.ndarray  # as stored, one for each of token_keys
    token_keys: Sequence[int]  # the i-th record's key is facts.next_key + i

    def __bool__(self) -> bool:
        return bool(self.records or self.token_keys)

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes on disk at the most, counted in SQLite's log and file."""
        texts = sum(len(r.thumbnail) + 4 * sum(map(len, r[:3])) for r in self.records)
        pages = _COMMIT_PAGES + _PICTURE_PAGES * (len(self.records) + len(self.token_keys))
        return self.vectors.nbytes + self.tokens.nbytes + 2 * texts + pages * _PAGE_BYTES


def plan(catalog: Catalog, facts: Facts, items: Sequence[Item]) -> Addition:
    """Leave out what is stored already, to the byte, and encode the rest.

    Raises GalleryError for what cannot be stored, an id given twice, and tokens other than those
    that a picture has.
    """
    records = [item.record(facts) for item in items]
    repeated = len(records) - len({record.id for record in records})
    if repeated:
        raise GalleryError(f"{repeated} ids are given twice in one batch. Expected each once.")
    vectors = facts.vectors.encode([item.vector for item in items])
    stored = [
        _identical(catalog, facts, record, crc32)
        for record, crc32 in zip(records, row_checksums(vectors), strict=True)
    ]
    fresh = [i for i, row in enumerate(stored) if row is None]
    keys = {items[i].id: facts.next_key + n for n, i in enumerate(fresh)}
    tokens = {item.id: item.tokens for item in items if item.tokens is not None}
    token_keys, token_rows = _missing(catalog, facts, tokens, keys)
    return Addition(
        records=[records[i] for i in fresh],
        vectors=vectors[fresh],
        tokens=token_rows,
        token_keys=token_keys,
    )


def no_tokens(facts: Facts) -> np.ndarray:
    """Return no rows of tokens, as a gallery stores them."""
    return facts.tokens.rows.empty(0) if facts.tokens else np.empty(0, np.float32)


def plan_tokens(catalog: Catalog, facts: Facts, tokens: Mapping[str, np.ndarray]) -> Addition:
    """Leave out tokens that are stored already and encode the rest.

    Raises UnknownId, and GalleryError for tokens that do not fit or differ from those stored.
    """
    for item_id, found in tokens.items():
        catalog.held_row(facts, item_id)
        check_tokens(item_id, found, facts.tokens)
    keys, rows = _missing(catalog, facts, tokens, {})
    return Addition(records=[], vectors=facts.vectors.empty(0), tokens=rows, token_keys=keys)


def commit(folder: Path, catalog: Catalog, facts: Facts, added: Addition) -> None:
    """Append the rows to the segments, and confirm them once they are on disk."""
    keyed = list(zip(added.token_keys, row_checksums(added.tokens), strict=True))
    vectors = vector_segment(folder, facts)
    with storage_errors(vectors.path):
        vectors.append(added.vectors, facts.rows)
    if facts.tokens:
        tokens = token_segment(folder, facts)
        with storage_errors(tokens.path):
            tokens.append(added.tokens, facts.token_rows)
    # NOTE: where the commit fails the appended rows stay: should its log reach the disk after all,
    # they are what it speaks of. The next addition writes over them.
    catalog.commit_added(facts, added.records, row_checksums(added.vectors), keyed)


def _identical(catalog: Catalog, facts: Facts, record: Record, crc32: int) -> Row | None:
    """Return the live row that holds this very picture, vector and metadata, None if none does."""
    row = catalog.row(facts, record.id)
    held = None if row is None else catalog.described(facts, row)
    if held is None or (held.source_hash, held.metadata) != record[1:3]:
        return None
    checksums = crc32, zlib.crc32(record.thumbnail)
    return held if (held.vector_crc32, held.thumbnail_crc32) == checksums else None


def _missing(
    catalog: Catalog,
    facts: Facts,
    tokens: Mapping[str, np.ndarray],
    new_keys: Mapping[str, int],
) -> tuple[list[int], np.ndarray]:
    """Return keys and stored rows of the tokens that the gallery lacks."""
    if facts.tokens is None or not tokens:
        return [], no_tokens(facts)
    rows = facts.tokens.rows.encode(list(tokens.values()))
    keys, places = [], []
    for i, (item_id, crc32) in enumerate(zip(tokens, row_checksums(rows), strict=True)):
        key = new_keys.get(item_id)
        if key is None:
            row = catalog.row(facts, item_id)
            held = None if row is None else catalog.described(facts, row)
            assert held is not None
            key = held.key
            kept = catalog.token(facts, key)
            if kept and kept[1] == crc32:
                continue
            if kept:
                raise GalleryError(
                    f"{item_id}: has other tokens already. Delete it and add it again."
                )
        keys.append(key)
        places.append(i)
    return keys, rows[places]
