"""The catalogue of a gallery: ids, metadata, hashes, thumbnails and the generation, in SQLite.

A row is never rewritten. It is born in a batch and dies in a later generation, when its id is
updated or deleted; it stays in the tables until compaction. So a reader that stands at an older
generation keeps an unchanging view, without a transaction that would hold the writer's log back.
"""

from __future__ import annotations

import difflib
import errno
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cir_rt.errors import GalleryError, StorageFull

FORMAT = 1  # stands in SQLite's user_version; 0 is a file whose making was interrupted

_NEVER = 2**63 - 1
_SUGGESTION_POOL = 500
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE facts (
    one INTEGER PRIMARY KEY CHECK (one = 1), fingerprint TEXT NOT NULL, dim INTEGER NOT NULL,
    segment INTEGER NOT NULL, rows INTEGER NOT NULL, generation INTEGER NOT NULL);
CREATE TABLE items (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL, source_hash TEXT NOT NULL, metadata TEXT NOT NULL,
    died INTEGER NOT NULL DEFAULT {_NEVER}, UNIQUE (id, died));
CREATE INDEX dead ON items (died) WHERE died < {_NEVER};
CREATE TABLE thumbnails (row INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE batches (
    first_row INTEGER PRIMARY KEY, rows INTEGER NOT NULL,
    vectors_crc32 INTEGER NOT NULL, items_crc32 INTEGER NOT NULL);
PRAGMA user_version = {FORMAT};
"""
_VISIBLE = "died > ? AND row < ?"  # generation, rows


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a gallery is at one generation; also the view that a reader stands at."""

    fingerprint: str
    dim: int
    segment: int  # number of the vectors' file; another one means that rows were renumbered
    rows: int  # dead ones included
    generation: int

    @property
    def view(self) -> tuple[int, int]:
        """What decides which rows are visible: (generation, rows)."""
        return self.generation, self.rows


class Record(NamedTuple):
    """One picture as the catalogue holds it; metadata is JSON text."""

    id: str
    source_hash: str
    metadata: str
    thumbnail: bytes


class Batch(NamedTuple):
    """Rows that were committed together, with their checksums."""

    first_row: int
    rows: int
    vectors_crc32: int
    items_crc32: int


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
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
            (self.format,) = db.execute("PRAGMA user_version").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the connection; the last one to close folds the log into the file."""
        self._db.close()

    def create(self, fingerprint: str, dim: int) -> None:
        """Make the tables of an empty gallery, all or none."""
        with storage_errors(self.path), self._rolling_back():
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT INTO facts VALUES (1, ?, ?, 0, 0, 0)", (fingerprint, dim))
            self._db.execute("COMMIT")
        self.format = FORMAT

    def facts(self) -> Facts:
        """Read the newest facts."""
        with storage_errors(self.path):
            if self._immutable:  # such a connection never looks at the file again
                self._db.close()
                self._db = self._connect()
            found = self._db.execute(
                "SELECT fingerprint, dim, segment, rows, generation FROM facts"
            ).fetchone()
        if found is None:
            raise GalleryError(f"{self.path}: holds no facts. Index the pictures again.")
        names = ("fingerprint", "dim", "segment", "rows", "generation")
        return Facts(**dict(zip(names, found, strict=True)))

    def commit_added(self, facts: Facts, records: Sequence[Record], vectors_crc32: int) -> None:
        """Confirm rows that already lie in the vectors' file, in one transaction.

        facts is the state to build on; live rows of the same ids die.
        """
        first, generation = facts.rows, facts.generation + 1
        batch = Batch(first, len(records), vectors_crc32, records_crc32(records))
        with storage_errors(self.path), self._rolling_back():
            self._db.execute("BEGIN IMMEDIATE")
            self._bury((record.id for record in records), generation)
            self._db.executemany(
                "INSERT INTO items (row, id, source_hash, metadata) VALUES (?, ?, ?, ?)",
                ((row, *record[:3]) for row, record in enumerate(records, first)),
            )
            self._db.executemany(
                "INSERT INTO thumbnails VALUES (?, ?)",
                ((row, record.thumbnail) for row, record in enumerate(records, first)),
            )
            self._db.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", batch)
            self._db.execute(
                "UPDATE facts SET rows = ?, generation = ?", (first + len(records), generation)
            )
            self._db.execute("COMMIT")

    def commit_deleted(self, facts: Facts, ids: Iterable[str]) -> None:
        """Let the live rows of these ids die, in one transaction."""
        with storage_errors(self.path), self._rolling_back():
            self._db.execute("BEGIN IMMEDIATE")
            self._bury(ids, facts.generation + 1)
            self._db.execute("UPDATE facts SET generation = ?", (facts.generation + 1,))
            self._db.execute("COMMIT")

    def _bury(self, ids: Iterable[str], generation: int) -> None:
        self._db.executemany(
            f"UPDATE items SET died = ? WHERE id = ? AND died = {_NEVER}",
            ((generation, item_id) for item_id in ids),
        )

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

    def row(self, facts: Facts, item_id: str) -> int | None:
        """Return the row that holds an id, None where there is none."""
        found = self._select(
            facts, f"SELECT row FROM items WHERE id = ? AND {_VISIBLE}", item_id, *facts.view
        )
        return int(found[0][0]) if found else None

    def described(self, facts: Facts, row: int) -> tuple[str, str, str] | None:
        """Return (id, source_hash, metadata as JSON text) of a live row, None for any other."""
        found = self._select(
            facts,
            f"SELECT id, source_hash, metadata FROM items WHERE row = ? AND {_VISIBLE}",
            row,
            *facts.view,
        )
        return found[0] if found else None

    def thumbnail(self, facts: Facts, row: int) -> bytes:
        """Return the JPEG of a row; GalleryError where it was lost."""
        found = self._select(facts, "SELECT CAST(jpeg AS BLOB) FROM thumbnails WHERE row = ?", row)
        if not found:
            raise GalleryError(f"{self.path}: row {row} has lost its thumbnail. Index it again.")
        return bytes(found[0][0])

    def ids(self, facts: Facts) -> list[str]:
        """Return the live ids in row order."""
        sql = f"SELECT id FROM items WHERE {_VISIBLE} ORDER BY row"
        return [item_id for (item_id,) in self._select(facts, sql, *facts.view)]

    def dead_rows(self, facts: Facts) -> list[int]:
        """Return the rows that are dead at this generation."""
        sql = f"SELECT row FROM items WHERE died < {_NEVER} AND died <= ? AND row < ?"
        return [row for (row,) in self._select(facts, sql, *facts.view)]

    def nearest(self, facts: Facts, item_id: str) -> list[str]:
        """Return up to three live ids that are spelt alike, of a bounded number compared."""
        pool: set[str] = set()
        for order in ("id >= ? ORDER BY id", "id < ? ORDER BY id DESC", "? != '' ORDER BY row"):
            sql = f"SELECT id FROM items WHERE {_VISIBLE} AND {order} LIMIT {_SUGGESTION_POOL}"
            pool.update(found for (found,) in self._select(facts, sql, *facts.view, item_id))
        return difflib.get_close_matches(item_id, sorted(pool), n=3)

    def batches(self, facts: Facts) -> list[Batch]:
        """Return the committed batches in row order."""
        sql = "SELECT * FROM batches WHERE first_row < ? ORDER BY first_row"
        return [Batch(*batch) for batch in self._select(facts, sql, facts.rows)]

    def records(self, facts: Facts, first_row: int, stop_row: int) -> list[tuple[int, Record]]:
        """Return (row, record) of rows that are there, dead or alive; a lost thumbnail is b""."""
        sql = """SELECT row, id, source_hash, metadata, CAST(ifnull(jpeg, x'') AS BLOB) FROM items
            LEFT JOIN thumbnails USING (row) WHERE row >= ? AND row < ? ORDER BY row"""
        found = self._select(facts, sql, first_row, stop_row)
        return [(row, Record(*record)) for row, *record in found]

    def faults(self) -> list[str]:
        """Return what SQLite's own check finds wrong with the file."""
        with storage_errors(self.path):
            found = [line for (line,) in self._db.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else [f"{self.path}: {line}" for line in found]


def records_crc32(records: Iterable[Record], start: int = 0) -> int:
    """Return the checksum of records in row order, going on from start."""
    for record in records:
        text = "\0".join(map(str, record[:3])).encode()  # damage may turn text into other types
        start = zlib.crc32(record.thumbnail, zlib.crc32(text, start))
    return start


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the system or SQLite raises into StorageFull and GalleryError about path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(_full(path)) from error
        raise GalleryError(f"{path}: {error.strerror or error}.") from error
    except sqlite3.Error as error:
        if "disk is full" in str(error):
            raise StorageFull(_full(path)) from error
        raise GalleryError(
            f"{path}: SQLite says: {error}. Look for damage: cir-rt inspect GALLERY --verify"
        ) from error


def _full(path: Path) -> str:
    return f"{path}: the disk is full. What was stored is untouched; free some space and retry."
