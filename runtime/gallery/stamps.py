"""What each indexed file looked like when it was read, so that it needs no second reading.

A file is known again by its path, its size and the time of its last change, as make and rsync do;
the hash that was taken then still has to be the gallery's. All of it is derived: where it is lost
or damaged the files are read again, and their hashes tell.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cir_rt.gallery.disk import storage_errors

FILE = "stamps.sqlite"

_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system, FAT's


class Stamp(NamedTuple):
    """What the file system says of a file, without reading it."""

    path: str
    size_bytes: int
    changed_ns: int  # content or inode, whichever changed last

    @classmethod
    def of(cls, path: Path, status: os.stat_result) -> Stamp:
        """Take it from a file's status."""
        changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
        return cls(os.path.abspath(path), status.st_size, changed_ns)


class Stamps:
    """The stamps beside one gallery, held by its writer."""

    def __init__(self, folder: Path) -> None:
        """Open them, empty where there are none or they cannot be read."""
        self._path = folder / FILE
        try:
            self._db = self._connect()
        except sqlite3.DatabaseError:
            self._path.unlink()
            self._db = self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous = OFF")
            db.execute(
                "CREATE TABLE IF NOT EXISTS stamps (id TEXT PRIMARY KEY, source_hash TEXT, "
                "path TEXT, size_bytes INTEGER, changed_ns INTEGER) WITHOUT ROWID"
            )
            if db.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("damaged")
        except BaseException:
            db.close()
            raise
        return db

    def hash_of(self, item_id: str, path: Path) -> str | None:
        """Return the hash of a picture's file where it has not changed since it was taken."""
        try:
            stamp = Stamp.of(path, path.stat())
        except (OSError, ValueError):
            return None
        found = self._db.execute(
            "SELECT source_hash, path, size_bytes, changed_ns FROM stamps WHERE id = ?", (item_id,)
        ).fetchone()
        return found[0] if found and found[1:] == stamp else None

    def remember(self, seen: Sequence[tuple[str, str, Stamp]]) -> None:
        """Keep (id, hash, stamp) of files that were read.

        One that changed just before is left out: it could change again within one tick of the
        file system's clock, and look the same.
        """
        settled = time.time_ns() - _SETTLED_NS
        rows = [(i, h, *stamp) for i, h, stamp in seen if stamp.changed_ns < settled]
        with storage_errors(self._path), self._db:
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR REPLACE INTO stamps VALUES (?, ?, ?, ?, ?)", rows)

    def __enter__(self) -> Stamps:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
