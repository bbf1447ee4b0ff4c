"""The catalogue of a gallery: ids, metadata, hashes, thumbnails and the generation, in SQLite.

A row is born in one generation and dies in a later one, when its id is updated or deleted; it stays
in the tables until compaction. So a reader that stands at an older generation keeps an unchanging
view, without a transaction that would hold the writer's log back.
"""

from __future__ import annotations

import difflib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cir_rt.errors import GalleryError, UnknownId
from cir_rt.gallery.disk import storage_errors
from cir_rt.gallery.facts import NEVER, Facts, Record, Row, row_crc32
from cir_rt.gallery.item import is_id

FORMAT = 2  # stands in SQLite's user_version; 0 is a file whose making was interrupted

_SUGGESTION_POOL = 500
_RENUMBERED_TOGETHER = 4096
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE facts (
    one INTEGER PRIMARY KEY CHECK (one = 1), fingerprint TEXT NOT NULL, dim INTEGER NOT NULL,
    precision TEXT NOT NULL, segment INTEGER NOT NULL, rows INTEGER NOT NULL,
    generation INTEGER NOT NULL, next_key INTEGER NOT NULL, token_rows INTEGER NOT NULL,
    token_fingerprint TEXT, token_count INTEGER, token_width INTEGER, token_precision TEXT,
    quota_bytes INTEGER, crc32 INTEGER NOT NULL);
CREATE TABLE items (
    key INTEGER PRIMARY KEY, row INTEGER NOT NULL UNIQUE, id TEXT NOT NULL,
    source_hash TEXT NOT NULL, metadata TEXT NOT NULL, died INTEGER NOT NULL,
    vector_crc32 INTEGER NOT NULL, thumbnail_crc32 INTEGER NOT NULL, crc32 INTEGER NOT NULL);
CREATE UNIQUE INDEX ids ON items (id, died);
CREATE INDEX dead ON items (died, row) WHERE died < {NEVER};
CREATE TABLE thumbnails (key INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE tokens (key INTEGER PRIMARY KEY, place INTEGER NOT NULL, crc32 INTEGER NOT NULL);
CREATE INDEX token_places ON tokens (place);
PRAGMA user_version = {FORMAT};
"""
_VISIBLE = "died > ? AND row < ?"  # generation, rows
_ROW = "key, row, id, source_hash, metadata, died, vector_crc32, thumbnail_crc32"
_FACTS = ", ".join(field.name for field in fields(Facts))


class Catalog:
    """One connection to a gallery's SQLite file."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Connect; a writer makes the file where it is absent. Raises GalleryError."""
        self.path = path
        self._writable = writable
        with storage_errors(path):
            self._db = self._connect()

    def _connect(self) -> sqlite3.Connection:
        mode = "mode=rwc" if self._writable else "mode=ro"
        wal = self.path.with_name(self.path.name + "-wal")
        # NOTE: on a read-only medium SQLite cannot make the log's index; with no log there is
        # nothing that the index would be needed for.
        self._immutable = (
            not self._writable and not os.access(self.path.parent, os.W_OK) and not wal.exists()
        )
        if self._immutable:
            mode += "&immutable=1"
        uri = f"{self.path.absolute().as_uri()}?{mode}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            if self._writable:
                if not self.path.stat().st_size:  # only a file without tables takes it
                    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.create_function("row_crc32", 8, row_crc32, deterministic=True)
            (self.format,) = db.execute("PRAGMA user_version").fetchone()
            self._file = self.path.stat()
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the connection; the last one to close folds the log into the file."""
        self._db.close()

    def create(self, facts: Facts) -> None:
        """Make the tables of an empty gallery, all or none."""
        with storage_errors(self.path), self._rolling_back():
            self._db.executescript(_SCHEMA)
            self._write_facts(facts)
            self._db.execute("COMMIT")
        self.format = FORMAT

    def facts(self) -> Facts:
        """Read the newest facts; GalleryError where they are damaged."""
        with storage_errors(self.path):
            # A read-only medium's connection never looks at the file again, and a restored
            # gallery is another file of the same name.
            if self._immutable or not os.path.samestat(self._file, self.path.stat()):
                self._db.close()
                self._db = self._connect()
            found = self._db.execute(f"SELECT {_FACTS}, crc32 FROM facts").fetchone()
        facts = Facts.of_values(found[:-1], found[-1]) if found else None
        if facts is None:
            raise GalleryError(
                f"{self.path}: its facts are damaged. Restore a backup, or index the pictures "
                "again:  cir-rt index BUNDLE IMAGE_DIR --gallery NEW"
            )
        return facts

    def _write_facts(self, facts: Facts) -> None:
        values = (1, *astuple(facts), facts.crc32)
        marks = ", ".join("?" * len(values))
        self._db.execute(f"INSERT OR REPLACE INTO facts VALUES ({marks})", values)

    def commit_facts(self, facts: Facts) -> None:
        """Replace the facts: what the tokens are, the quota, the generation."""
        with self._transaction():
            self._write_facts(facts)

    def commit_added(
        self,
        facts: Facts,
        records: Sequence[Record],
        vectors_crc32: Sequence[int],
        tokens_crc32: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Confirm rows that already lie in the segments, in one transaction.

        facts is the state to build on; live rows of the same ids die. tokens_crc32 holds the key
        and checksum of each row of tokens; the i-th record's key is facts.next_key + i.
        """
        key, row, generation = facts.next_key, facts.rows, facts.generation + 1
        with self._transaction():
            self._bury((record.id for record in records), generation)
            for i, (record, vector_crc32) in enumerate(zip(records, vectors_crc32, strict=True)):
                checksums = (vector_crc32, zlib.crc32(record.thumbnail))
                values = (key + i, row + i, *record[:3], NEVER, *checksums)
                self._db.execute(
                    "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*values, row_crc32(*values)),
                )
            self._db.executemany(
                "INSERT INTO thumbnails VALUES (?, ?)",
                ((key + i, record.thumbnail) for i, record in enumerate(records)),
            )
            self._db.executemany(
                "INSERT INTO tokens VALUES (?, ?, ?)",
                (
                    (owner, facts.token_rows + i, crc32)
                    for i, (owner, crc32) in enumerate(tokens_crc32)
                ),
            )
            added = len(records)
            self._write_facts(
                replace(
                    facts,
                    rows=row + added,
                    generation=generation,
                    next_key=key + added,
                    token_rows=facts.token_rows + len(tokens_crc32),
                )
            )

    def commit_deleted(self, facts: Facts, ids: Iterable[str]) -> None:
        """Let the live rows of these ids die, in one transaction."""
        with self._transaction():
            self._bury(ids, facts.generation + 1)
            self._write_facts(replace(facts, generation=facts.generation + 1))

    def commit_compacted(self, facts: Facts) -> None:
        """Forget dead rows and number the living ones and their tokens anew, in one transaction.

        facts is what the gallery is afterwards. Raises GalleryError where the living are not as
        many as facts has rows.
        """
        dead = f"SELECT key FROM items WHERE died < {NEVER}"
        with self._transaction():
            for table in ("thumbnails", "tokens", "items"):
                self._db.execute(f"DELETE FROM {table} WHERE key IN ({dead})")
            crc32 = "row_crc32(key, ?1, id, source_hash, metadata, died, vector_crc32, "
            rows = self._renumber("items", "row", f"row = ?1, crc32 = {crc32} thumbnail_crc32)")
            token_rows = self._renumber("tokens", "place", "place = ?1")
            if (rows, token_rows) != (facts.rows, facts.token_rows):
                raise GalleryError(
                    f"{self.path}: holds {rows} living rows, {token_rows} with tokens; expected "
                    f"{facts.rows} and {facts.token_rows}. Keep what is whole:  "
                    "cir-rt inspect GALLERY --repair"
                )
            self._write_facts(facts)

    def _renumber(self, table: str, place: str, change: str) -> int:
        """Close the gaps in ascending order, so that each number is free when it is taken."""
        sql = f"SELECT {place}, key FROM {table} WHERE {place} > ? ORDER BY {place} LIMIT ?"
        count, last = 0, -1
        while part := self._db.execute(sql, (last, _RENUMBERED_TOGETHER)).fetchall():
            moved = [(n, key) for n, (old, key) in enumerate(part, count) if n != old]
            self._db.executemany(f"UPDATE {table} SET {change} WHERE key = ?2", moved)
            count, last = count + len(part), part[-1][0]
        return count

    def shrink(self) -> None:
        """Give free pages and the log back to the disk; what readers still need of it stays."""
        with storage_errors(self.path):
            # NOTE: a page a step; `execute` takes one step of a statement without results.
            self._db.executescript("PRAGMA incremental_vacuum")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _bury(self, ids: Iterable[str], generation: int) -> None:
        self._db.executemany(
            "UPDATE items SET died = ?1, crc32 = row_crc32(key, row, id, source_hash, metadata, "
            f"?1, vector_crc32, thumbnail_crc32) WHERE id = ?2 AND died = {NEVER}",
            ((generation, item_id) for item_id in ids),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with storage_errors(self.path), self._rolling_back():
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")

    @contextmanager
    def _rolling_back(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _select(self, facts: Facts, sql: str, *values: Any) -> list[Any]:
        """Run one query; refuse its answer where rows were renumbered since facts was read."""
        with storage_errors(self.path):
            found = self._db.execute(sql, values).fetchall()
            (segment,) = self._db.execute("SELECT segment FROM facts").fetchone()
        if segment != facts.segment:  # looked up last: the answer is of this segment or an older
            raise GalleryError(f"{self.path.parent}: was compacted meanwhile. Call refresh().")
        return found

    def _integers(self, facts: Facts, sql: str, *values: Any) -> list[tuple[int, ...]]:
        """Run a query for row numbers, places and checksums; damage may have made them anything."""
        found = self._select(facts, sql, *values)
        if not all(type(number) is int and number >= 0 for row in found for number in row):
            raise GalleryError(f"{self.path}: holds no number where one belongs. {_REPAIR}")
        return found

    def _texts(self, facts: Facts, sql: str, *values: Any) -> list[str]:
        """Run a query for ids; damage may have made them anything."""
        found = [text for (text,) in self._select(facts, sql, *values)]
        if not all(isinstance(text, str) for text in found):
            raise GalleryError(f"{self.path}: holds no text where an id belongs. {_REPAIR}")
        return found

    def row(self, facts: Facts, item_id: str) -> int | None:
        """Return the row that holds an id, None where there is none."""
        sql = f"SELECT row FROM items WHERE id = ? AND {_VISIBLE}"
        found = self._integers(facts, sql, item_id, *facts.view)
        return found[0][0] if found else None

    def held_row(self, facts: Facts, item_id: object) -> int:
        """Return the row that holds an id; raises UnknownId, which names the nearest ids."""
        row = self.row(facts, item_id) if is_id(item_id) else None
        if row is None:
            nearest = self._nearest(facts, item_id) if is_id(item_id) else []
            hint = f"Nearest: {', '.join(nearest)}." if nearest else "Expected an id as indexed."
            raise UnknownId(f"{self.path.parent}: no picture {str(item_id)[:80]!r}. {hint}")
        return row

    def _nearest(self, facts: Facts, item_id: str) -> list[str]:
        """Return up to three live ids that are spelt alike, of a bounded number compared."""
        pool: set[str] = set()
        for order in ("id >= ? ORDER BY id", "id < ? ORDER BY id DESC", "? != '' ORDER BY row"):
            sql = f"SELECT id FROM items WHERE {_VISIBLE} AND {order} LIMIT {_SUGGESTION_POOL}"
            pool.update(self._texts(facts, sql, *facts.view, item_id))
        return difflib.get_close_matches(item_id, sorted(pool), n=3)

    def described(self, facts: Facts, row: int) -> Row | None:
        """Return what is stored of a live row, None for any other.

        Raises GalleryError where it is not what was committed.
        """
        sql = f"SELECT {_ROW}, crc32 FROM items WHERE row = ? AND {_VISIBLE}"
        found = self._select(facts, sql, row, *facts.view)
        if not found:
            return None
        stored = Row(*found[0])
        if not stored.whole:
            raise GalleryError(f"{self.path}: row {row} is damaged. {_REPAIR}")
        return stored

    def matching(self, facts: Facts, condition: str, values: Sequence[Any]) -> np.ndarray:
        """Return the live rows whose items meet a condition in SQL: (n,) int64, in row order."""
        sql = f"SELECT row FROM items WHERE {_VISIBLE} AND ({condition}) ORDER BY row"
        found = self._integers(facts, sql, *facts.view, *values)
        return np.array([row for (row,) in found], np.int64)

    def thumbnail(self, facts: Facts, row: int) -> bytes:
        """Return the JPEG of a row; GalleryError where it was lost or damaged."""
        sql = """SELECT thumbnail_crc32, CAST(jpeg AS BLOB)
            FROM items JOIN thumbnails USING (key) WHERE row = ?"""
        found = self._select(facts, sql, row)
        jpeg = found[0][1] or b"" if found else b""
        if not jpeg or zlib.crc32(jpeg) != found[0][0]:
            raise GalleryError(f"{self.path}: row {row} has lost its thumbnail. {_REPAIR}")
        return jpeg

    def token_places(self, facts: Facts, rows: Sequence[int]) -> dict[int, int]:
        """Return where the tokens of live rows lie in their segment, by row, of those with any."""
        sql = f"""SELECT row, place FROM items JOIN tokens USING (key)
            WHERE row IN (SELECT value FROM json_each(?)) AND {_VISIBLE} AND place < ?"""
        asked = json.dumps(list(rows))
        found = self._integers(facts, sql, asked, *facts.view, facts.token_rows)
        return {pair[0]: pair[1] for pair in found}

    def token(self, facts: Facts, key: int) -> tuple[int, int] | None:
        """Return (place, crc32) of a picture's tokens, None where it has none."""
        found = self._integers(facts, "SELECT place, crc32 FROM tokens WHERE key = ?", key)
        return (found[0][0], found[0][1]) if found else None

    def ids(self, facts: Facts) -> list[str]:
        """Return the live ids in row order."""
        sql = f"SELECT id FROM items WHERE {_VISIBLE} ORDER BY row"
        return self._texts(facts, sql, *facts.view)

    def ids_without_tokens(self, facts: Facts, among: Sequence[str] | None = None) -> list[str]:
        """Return the live ids, among some or all, whose tokens were never added, in row order."""
        asked = "" if among is None else "id IN (SELECT value FROM json_each(?)) AND"
        ids = [] if among is None else [json.dumps(list(among))]
        sql = f"""SELECT id FROM items LEFT JOIN tokens USING (key)
            WHERE {asked} {_VISIBLE} AND ifnull(place >= ?, 1) ORDER BY row"""
        return self._texts(facts, sql, *ids, *facts.view, facts.token_rows)

    def dead_rows(self, facts: Facts) -> list[int]:
        """Return the rows that are dead at this generation."""
        sql = f"SELECT row FROM items WHERE died < {NEVER} AND died <= ? AND row < ?"
        return [row for (row,) in self._integers(facts, sql, *facts.view)]

    def rows(self, facts: Facts, first_row: int, stop_row: int) -> list[Row]:
        """Return what is stored of rows, dead or alive."""
        sql = f"SELECT {_ROW}, crc32 FROM items WHERE row >= ? AND row < ? ORDER BY row"
        return [Row(*row) for row in self._select(facts, sql, first_row, stop_row)]

    def rows_of_keys(self, facts: Facts, first_key: int, stop_key: int) -> list[Row]:
        """Return what is stored of rows with these keys, dead or alive."""
        sql = f"SELECT {_ROW}, crc32 FROM items WHERE key >= ? AND key < ? ORDER BY key"
        return [Row(*row) for row in self._select(facts, sql, first_key, stop_key)]

    def indexed_ids(self) -> Iterator[str]:
        """Yield the live ids as the index of ids has them, until the first that is damaged."""
        sql = f"SELECT id FROM items INDEXED BY ids WHERE died = {NEVER} ORDER BY id"
        with suppress(sqlite3.Error):
            yield from (str(item_id) for (item_id,) in self._db.execute(sql))

    def jpeg(self, facts: Facts, key: int) -> bytes:
        """Return the thumbnail of a key, b"" where it is lost."""
        found = self._select(facts, "SELECT CAST(jpeg AS BLOB) FROM thumbnails WHERE key = ?", key)
        return found[0][0] or b"" if found else b""

    def token_rows(self, facts: Facts, first: int, stop: int) -> list[tuple[int, ...]]:
        """Return (place, died, crc32) of rows of tokens, those of dead pictures included."""
        sql = """SELECT place, died, tokens.crc32 FROM tokens JOIN items USING (key)
            WHERE place >= ? AND place < ? ORDER BY place"""
        return self._integers(facts, sql, first, stop)

    def copy_to(self, path: Path) -> None:
        """Copy the newest generation into a new file, on disk before this returns."""
        with storage_errors(self.path), closing(sqlite3.connect(path)) as copy:
            self._db.backup(copy)

    def faults(self) -> list[str]:
        """Return what SQLite's own check finds wrong with the file."""
        with storage_errors(self.path):
            found = [line for (line,) in self._db.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else [f"{self.path}: {line}" for line in found]


_REPAIR = "Keep what is whole:  cir-rt inspect GALLERY --repair"
