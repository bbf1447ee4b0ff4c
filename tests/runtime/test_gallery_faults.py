"""The gallery on disk when power, space or bytes fail: what was confirmed is there."""

from __future__ import annotations

import errno
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_gallery import DIM, batch, contents, fill, item, jpeg, vector, vectors_file, writer

from cir_rt.errors import GalleryError, StorageFull
from cir_rt.gallery import Gallery, segment


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "shoes.gallery"


@pytest.fixture
def filled(folder):
    return fill(folder)


def test_making_that_was_interrupted_is_taken_up(folder):
    (folder / "vectors").mkdir(parents=True)
    (folder / "lock").touch()
    vectors_file(folder).touch()
    (folder / "gallery.sqlite").touch()
    with pytest.raises(GalleryError, match="no gallery here"):
        Gallery.open(folder)
    with writer(folder) as gallery:
        gallery.add(batch(1))
    assert list(contents(folder)) == ["shoes/1"]


def test_vectors_without_their_catalogue_are_not_written_over(filled):
    kept = vectors_file(filled).read_bytes()
    (filled / "gallery.sqlite").unlink()
    with pytest.raises(GalleryError, match=r"no gallery\.sqlite"):
        writer(filled)
    assert vectors_file(filled).read_bytes() == kept


def test_rows_that_were_not_confirmed_are_ignored_then_removed(filled):
    before = contents(filled)
    with vectors_file(filled).open("ab") as file:
        file.write(b"\xff" * (3 * DIM * 4 + 5))
    assert contents(filled) == before
    with writer(filled) as gallery:
        gallery.add(batch(5))
    assert vectors_file(filled).stat().st_size == 6 * DIM * 4
    assert contents(filled) == {**before, "shoes/5": (vector(5).tobytes(), jpeg(5), {"n": 5})}


_KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from small_gallery import batch, writer

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

gallery = writer(Path({folder!r}))
count = 5
while True:
    if count == 11 and {instant!r} == "half written":
        os.pwrite(os.open({vectors!r}, os.O_RDWR), b"x" * 41, 32 * len(gallery.vectors))
        die()
    if count == 11 and {instant!r} == "appended":
        gallery._catalog.commit_added = die
    if count == 11 and {instant!r} == "in the transaction":
        gallery._catalog._db.set_trace_callback(
            lambda sql: die() if sql.startswith("INSERT OR REPLACE INTO facts") else None)
    gallery.add(batch(count, count + 1, 0))
    count += 2
    print(count, flush=True)
"""


@pytest.mark.parametrize("instant", ["half written", "appended", "in the transaction", "any"])
def test_a_killed_writer_loses_nothing_confirmed(filled, instant):
    script = _KILLED.format(
        tests=str(Path(__file__).parent),
        folder=str(filled),
        vectors=str(vectors_file(filled)),
        instant=instant,
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        confirmed = int(process.stdout.readline())
        if instant == "any":
            while confirmed < 40:
                confirmed = int(process.stdout.readline())
            process.kill()
        confirmed = max([confirmed, *map(int, process.stdout.read().split())])
    assert process.returncode == -signal.SIGKILL
    held = contents(filled)
    assert len(held) - confirmed in ((0, 2) if instant == "any" else (0,))
    if instant != "any":
        assert confirmed == 11
    with writer(filled) as gallery:  # the lock went with the process
        gallery.add(batch(1000))
    assert set(contents(filled)) == {*held, "shoes/1000"}


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_disk_full_while_appending(filled, monkeypatch, call):
    before, size = contents(filled), vectors_file(filled).stat().st_size
    with writer(filled) as gallery:
        with monkeypatch.context() as patch:

            def full(file: int, *data: object) -> int:
                if call == "pwrite" and os.fstat(file).st_size == size:
                    return pwrite(file, b"half", size)
                raise OSError(errno.ENOSPC, "No space left on device")

            pwrite = os.pwrite
            patch.setattr(segment.os, call, full)
            with pytest.raises(StorageFull, match="disk is full"):
                gallery.add(batch(0, 5))
        assert vectors_file(filled).stat().st_size == size
        assert gallery.generation == 2
        assert contents(filled) == before
        gallery.add(batch(0, 5))
    assert set(contents(filled)) == {*before, "shoes/5"}


def test_disk_full_while_committing(filled):
    before = contents(filled)
    with writer(filled) as gallery:
        db = gallery._catalog._db
        db.execute("PRAGMA max_page_count = 1")  # SQLite then takes the pages that it has
        with pytest.raises(StorageFull, match="disk is full"):
            gallery.add([item(f"big/{n}", n, thumbnail=jpeg(n, 256)) for n in range(40)])
        assert gallery.generation == 2
        assert contents(filled) == before
        db.execute("PRAGMA max_page_count = 1000000")
        gallery.add(batch(5))
        assert gallery.delete(["shoes/0"]) == 1
    assert set(contents(filled)) == {f"shoes/{n}" for n in range(1, 6)}


def test_an_interrupt_leaves_no_transaction_open(filled, monkeypatch):
    before = contents(filled)
    with writer(filled) as gallery:
        with monkeypatch.context() as patch:
            patch.setattr(gallery._catalog, "_bury", lambda *_: signal.raise_signal(signal.SIGINT))
            handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by shells
            try:
                with pytest.raises(KeyboardInterrupt):
                    gallery.add(batch(0, 5))
            finally:
                signal.signal(signal.SIGINT, handler)
        assert contents(filled) == before
        gallery.add(batch(6))
    assert set(contents(filled)) == {*before, "shoes/6"}


def test_verify_finds_a_flipped_byte_in_the_vectors(filled):
    data = bytearray(vectors_file(filled).read_bytes())
    data[3 * DIM * 4 + 1] ^= 1
    vectors_file(filled).write_bytes(data)
    with Gallery.open(filled) as gallery:
        (fault,) = gallery.verify()
    assert "row 3 differs" in fault


def test_verify_finds_vectors_that_are_not_finite(filled):
    data = np.fromfile(vectors_file(filled), np.float32)
    data[0] = np.nan
    data.tofile(vectors_file(filled))
    with Gallery.open(filled) as gallery:
        faults = gallery.verify()
    assert any("row 0 holds numbers that are not finite" in fault for fault in faults)


@pytest.mark.parametrize("damage", ["short", "missing"])
def test_verify_finds_lost_vectors(filled, damage):
    if damage == "short":
        os.truncate(vectors_file(filled), 5 * DIM * 4 - 1)
    else:
        vectors_file(filled).unlink()
    expected = "holds 4 whole rows; expected 5" if damage == "short" else "No such file"
    with writer(filled) as gallery:
        (fault,) = gallery.verify()
        assert expected in fault
        assert gallery.ids()
        with pytest.raises(GalleryError, match=expected):
            _ = gallery.vectors
        with pytest.raises(GalleryError, match=expected):
            gallery.add(batch(9))
        assert gallery.generation == 2


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("UPDATE items SET metadata = '{\"n\":9}' WHERE row = 1", r"row 1 \(shoes/1\) differs"),
        ("UPDATE items SET id = 'shoes/X' WHERE row = 4", r"row 4 \(shoes/X\) differs"),
        ("UPDATE items SET died = 2 WHERE row = 4", "row 4 .* differs"),
        ("UPDATE items SET vector_crc32 = 2 WHERE row = 4", "row 4 .* differs"),
        ("UPDATE thumbnails SET jpeg = x'ffd8ffe0' WHERE key = 1", r"row 1 .*thumbnail differs"),
        ("DELETE FROM thumbnails WHERE key = 1", r"row 1 \(shoes/1\): thumbnail is lost"),
        ("DELETE FROM items WHERE row = 2", "row 2 is lost"),
        ("UPDATE items SET id = x'ff' WHERE row = 0", "row 0 .* differs"),
        ("UPDATE items SET id = CAST(x'ff' AS TEXT) WHERE row = 0", "UTF-8"),
        ("UPDATE items SET id = CAST(id AS BLOB) WHERE row = 0", "row 0 .* differs"),
    ],
)
def test_verify_finds_a_changed_catalogue(filled, damage, expected):
    with sqlite3.connect(filled / "gallery.sqlite") as db:
        db.execute(damage)
    with Gallery.open(filled) as gallery:
        faults = gallery.verify()
    assert any(re.search(expected, fault) for fault in faults), faults


@pytest.mark.parametrize("column", ["dim", "segment", "rows", "generation", "quota_bytes"])
def test_changed_facts_are_refused(filled, column):
    with sqlite3.connect(filled / "gallery.sqlite") as db:
        db.execute(f"UPDATE facts SET {column} = 1")
    for refused in (Gallery.open, writer):
        with pytest.raises(GalleryError, match="facts are damaged"):
            refused(filled)


def test_a_changed_row_is_never_shown(filled):
    with sqlite3.connect(filled / "gallery.sqlite") as db:
        db.execute("UPDATE items SET metadata = '{}' WHERE row = 1")
        db.execute("UPDATE thumbnails SET jpeg = x'ffd8ffe0' WHERE key = 2")
    with Gallery.open(filled) as gallery:
        with pytest.raises(GalleryError, match=r"row 1 is damaged.*--repair"):
            gallery.items([1])
        with pytest.raises(GalleryError, match=r"row 2 has lost its thumbnail.*--repair"):
            gallery.thumbnail("shoes/2")
        assert gallery.items([0]) == [("shoes/0", {"n": 0})]


def test_verify_finds_a_thumbnail_that_is_no_picture(filled):
    with writer(filled) as gallery:
        gallery.add(
            [item("odd", thumbnail=b"\xff\xd8 no more"), item("big", 1, thumbnail=jpeg(1, 300))]
        )
        faults = gallery.verify()
    assert len(faults) == 2
    assert "cannot be decoded" in faults[0]
    assert "too large" in faults[1]
