"""A gallery looked after: compacted, backed up, restored, repaired, kept below a quota."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import threading

import numpy as np
import pytest
from living_gallery import contents, open_living, picture, seen, tokens
from small_gallery import MODEL, batch, fill, jpeg, vectors_file, writer
from small_gallery import contents as small_contents

from cir_rt.errors import GalleryError, StorageFull
from cir_rt.gallery import Gallery, compaction, segment
from cir_rt.gallery.backup import restore
from cir_rt.gallery.quota import folder_bytes
from cir_rt.gallery.repair import repair


@pytest.fixture
def folder(tmp_path):
    """A gallery with tokens: shop/0 to shop/29, of which every third has tokens."""
    with open_living(tmp_path / "shop.gallery", "int8") as gallery:
        gallery.add([picture(f"shop/{n}", n) for n in range(30)])
    return tmp_path / "shop.gallery"


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def flip(path, place, bit=1):
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ bit]))


def test_compaction_forgets_the_dead(folder):
    with open_living(folder, "int8") as gallery, Gallery.open(folder) as reader:
        assert gallery.compact() == 0
        gallery.add_tokens({"shop/20": tokens(20)})  # lies behind those of later pictures
        gallery.delete([f"shop/{n}" for n in range(0, 30, 2) if n != 20])
        reader.refresh()
        before, vectors = contents(folder), reader.vectors
        expected = np.asarray(vectors)[reader.live]
        assert gallery.wasted == 14 / 30
        generation, number = gallery.generation, gallery.segment
        assert gallery.compact() == 14
        assert (gallery.generation, gallery.segment) == (generation + 1, number + 1)
        assert (gallery.wasted, len(gallery.live), len(gallery)) == (0.0, 16, 16)
        assert contents(folder) == before
        assert {"vectors/000001.i8", "tokens/000001.i8"} <= files(folder)
        assert not {"vectors/000000.i8", "tokens/000000.i8"} & files(folder)
        np.testing.assert_array_equal(np.asarray(vectors)[reader.live], expected)  # still mapped
        with pytest.raises(GalleryError, match=r"compacted meanwhile.*refresh\(\)"):
            reader.items([1])
        assert reader.refresh()
        np.testing.assert_array_equal(np.asarray(reader.vectors), expected)
        gallery.add([picture("shop/99", 99)])
        assert gallery.vectors[16].tolist() == gallery.vector("shop/99").tolist()
    assert set(contents(folder)) == {*before, "shop/99"}


def test_compaction_gives_space_back(tmp_path):
    with writer(tmp_path / "a") as gallery:
        for n in range(0, 400, 50):
            gallery.add(batch(*range(n, n + 50)))
        gallery.delete([f"shoes/{n}" for n in range(400) if n % 4])
        gallery.compact()
    with writer(tmp_path / "b") as gallery:
        gallery.add(batch(*range(0, 400, 4)))
    assert folder_bytes(tmp_path / "a") < 1.2 * folder_bytes(tmp_path / "b")


def test_everything_deleted_compacts_to_nothing(folder):
    with open_living(folder, "int8") as gallery:
        gallery.delete(gallery.ids())
        assert gallery.compact() == 30
        assert (gallery.vectors.shape, gallery.verify()) == ((0, 8), [])
        gallery.add([picture("shop/1", 1)])
    assert list(contents(folder)) == ["shop/1"]


def test_compaction_refuses_what_is_damaged(folder):
    before = files(folder)
    flip(folder / "vectors" / "000000.i8", 20 * 12 + 5)
    with open_living(folder, "int8") as gallery:
        gallery.delete(["shop/3"])
        with pytest.raises(GalleryError, match=r"row 20 is damaged.*--repair"):
            gallery.compact()
        assert gallery.segment == 0
    assert files(folder) == before


def test_what_a_killed_compaction_left_is_removed(folder):
    for kind in ("vectors", "tokens"):
        (folder / kind / "000001.i8").write_bytes(b"half")
    open_living(folder, "int8").close()
    assert not {"vectors/000001.i8", "tokens/000001.i8"} & files(folder)


def test_a_disk_too_full_to_compact(folder, monkeypatch):
    with open_living(folder, "int8") as gallery:
        gallery.delete(["shop/3"])
        before = contents(folder)
        with monkeypatch.context() as patch:
            patch.setattr(segment.os, "pwrite", _no_space)
            with pytest.raises(StorageFull, match="disk is full"):
                gallery.compact()
        assert contents(folder) == before
        assert "vectors/000001.i8" not in files(folder)
        assert gallery.compact() == 1
    assert contents(folder) == before


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_a_thread_compacts_while_others_read_and_a_writer_waits(folder, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    commit = compaction.Catalog.commit_compacted

    def slow(*arguments):
        begun.set()
        go_on.wait(20)
        commit(*arguments)

    def compact():
        with open_living(folder, "int8") as gallery:
            gallery.delete(["shop/0"])
            gallery.compact()

    monkeypatch.setattr(compaction.Catalog, "commit_compacted", slow)
    thread = threading.Thread(target=compact)
    thread.start()
    assert begun.wait(20)
    with Gallery.open(folder) as reader:
        assert len(seen(reader, np.flatnonzero(reader.live).tolist())) == 29
    with pytest.raises(GalleryError, match="held by another writer"):
        Gallery.open_writer(folder, fingerprint=MODEL, dim=8)
    go_on.set()
    with Gallery.open_writer(folder, fingerprint=MODEL, dim=8, wait_s=20) as gallery:
        assert (len(gallery.live), gallery.segment) == (29, 1)
    thread.join()


def test_a_backup_is_a_gallery(folder, tmp_path):
    with open_living(folder, "int8") as gallery, Gallery.open(folder) as reader:
        expected = contents(folder)
        reader.backup(tmp_path / "first")
        gallery.delete(["shop/1"])
        gallery.compact()
        gallery.add([picture("shop/50", 50)])
        reader.backup(tmp_path / "second")
        with pytest.raises(GalleryError, match=r"second: exists"):
            reader.backup(tmp_path / "second")
        assert contents(tmp_path / "first") == expected
        assert contents(tmp_path / "second") == contents(folder) != expected
    assert {path.name for path in tmp_path.iterdir()} == {"shop.gallery", "first", "second"}


def test_what_a_killed_backup_left_is_removed(folder, tmp_path):
    left = tmp_path / ".copy.made-by-999999999"
    shutil.copytree(folder, left)
    with Gallery.open(folder) as gallery:
        gallery.backup(tmp_path / "copy")
    assert {path.name for path in tmp_path.iterdir()} == {"shop.gallery", "copy"}


def test_verify_starts_again_where_rows_were_renumbered(folder):
    with open_living(folder, "int8") as gallery, Gallery.open(folder) as reader:
        gallery.delete(["shop/0"])
        gallery.compact()
        assert reader.verify() == []
        assert reader.segment == 1


def test_restore_moves_readers_and_never_repeats_a_number(folder, tmp_path):
    with open_living(folder, "int8") as gallery, Gallery.open(folder) as reader:
        expected = contents(folder)
        gallery.backup(tmp_path / "backup")
        gallery.delete(["shop/1"])
        with pytest.raises(GalleryError, match="held by another writer"):
            restore(tmp_path / "backup", folder)
        gallery.close()
        reader.refresh()
        generation, number = reader.generation, reader.segment
        restore(tmp_path / "backup", folder)
        assert "shop/1" not in reader
        assert reader.refresh()
        assert "shop/1" in reader
        assert reader.generation > generation
        assert reader.segment > number
    assert contents(folder) == expected
    restore(tmp_path / "backup", tmp_path / "elsewhere")
    assert contents(tmp_path / "elsewhere") == expected
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_damaged_backup_is_not_restored(folder, tmp_path):
    with Gallery.open(folder) as gallery:
        gallery.backup(tmp_path / "backup")
    flip(tmp_path / "backup" / "tokens" / "000000.i8", 9)
    before = contents(folder)
    with pytest.raises(GalleryError, match=r"backup is damaged.*tokens"):
        restore(tmp_path / "backup", folder)
    assert contents(folder) == before
    with pytest.raises(GalleryError, match="no gallery here"):
        restore(tmp_path / "nothing", folder)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(GalleryError, match=r"a\.jpg"):
        restore(tmp_path / "backup", tmp_path / "photos")


def test_repair_leaves_what_is_whole(folder):
    before = contents(folder)
    report = repair(folder)
    assert (report.kept, report.lost, report.damaged) == (30, (), None)
    assert contents(folder) == before


def test_repair_keeps_all_that_is_whole(folder):
    before = contents(folder)
    with open_living(folder, "int8") as gallery:
        gallery.delete(["shop/29"])
        generation = gallery.generation
    with sqlite3.connect(folder / "gallery.sqlite") as db:
        db.execute("UPDATE items SET metadata = '{}' WHERE row = 4")
        db.execute("UPDATE thumbnails SET jpeg = x'ffd8ff' WHERE key = 5")
        db.execute("DELETE FROM thumbnails WHERE key = 6")
        db.execute("DELETE FROM items WHERE row = 7")
    flip(folder / "vectors" / "000000.i8", 8 * 12 + 3)
    flip(folder / "tokens" / "000000.i8", 3)  # of shop/0
    os.truncate(folder / "vectors" / "000000.i8", 28 * 12 + 4)
    lost = {f"shop/{n}" for n in (4, 5, 6, 8, 28)}
    with Gallery.open(folder) as reader:
        report = repair(folder)
        assert (report.kept, set(report.lost)) == (23, lost)
        assert (report.unnamed, report.without_tokens) == (1, ("shop/0",))
        assert reader.refresh()
        assert reader.generation > generation
    kept = {i: found for i, found in before.items() if i not in {*lost, "shop/7", "shop/29"}}
    assert contents(folder) == {**kept, "shop/0": (0, False)}
    assert report.damaged.name == "shop.gallery.damaged-1"
    assert Gallery.open(report.damaged).verify()
    assert repair(folder).damaged is None


@pytest.mark.parametrize("seed", range(6))
def test_repair_of_a_damaged_sqlite_file(tmp_path, seed):
    folder = tmp_path / "shoes.gallery"
    with writer(folder) as gallery:
        gallery.add(batch(*range(300)))
    before = small_contents(folder)
    path, rng = folder / "gallery.sqlite", np.random.default_rng(seed)
    pages = path.stat().st_size // 4096
    for page in rng.integers(3, pages, 3):  # not the schema, not the facts
        with path.open("r+b") as file:
            file.seek(int(page) * 4096)
            file.write(rng.bytes(4096))
    report = repair(folder)
    after = small_contents(folder)
    assert report.kept == len(after) > 0
    assert after.items() <= before.items()
    assert set(report.lost) <= set(before) - set(after)
    assert len(report.lost) + report.unnamed >= len(before) - len(after)


def test_what_cannot_be_repaired_is_left_alone(folder):
    with sqlite3.connect(folder / "gallery.sqlite") as db:
        db.execute("UPDATE facts SET dim = 9")
    before = files(folder)
    with pytest.raises(GalleryError, match=r"facts are damaged\. Restore a backup"):
        repair(folder)
    assert files(folder) == before


def fill_up(gallery, step):
    """Add pictures until they are refused."""
    for count in itertools.count(0, step):
        assert len(gallery) == count
        assert not gallery.quota_bytes or gallery.size_bytes <= gallery.quota_bytes
        gallery.add(batch(*range(count, count + step)))


def test_the_quota_holds(tmp_path):
    folder, quota = tmp_path / "shop.gallery", 600_000
    with Gallery.open_writer(folder, fingerprint=MODEL, dim=8, quota_bytes=quota) as gallery:
        assert gallery.quota_bytes == quota
    with writer(folder) as gallery:  # it stays
        with pytest.raises(StorageFull, match=r"quota is 600,000.*Delete pictures and compact"):
            fill_up(gallery, 5)
        count = len(gallery)
        assert count > 100
        gallery.delete([f"shoes/{n}" for n in range(count // 2)])
        gallery.compact()
        gallery.add(batch(*range(1000, 1020)))
        gallery.set_quota(None)
        gallery.add(batch(*range(2000, 2400)))
        assert gallery.size_bytes > quota
    assert len(small_contents(folder)) > 200


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=2m tmpfs '{disk}' 2>/dev/null"):
        pytest.skip("may not mount a small disk; an injected error stands for it elsewhere")
    yield disk
    os.system(f"umount '{disk}'")


def test_a_disk_that_is_really_full(small_disk):
    folder = small_disk / "shop.gallery"
    with writer(folder) as gallery:
        with pytest.raises(StorageFull, match="disk is full"):
            fill_up(gallery, 40)
        count = len(gallery)
        assert count > 0
    assert len(small_contents(folder)) == count
    with writer(folder) as gallery:
        assert gallery.verify() == []


def test_a_disk_that_is_really_read_only(small_disk):
    folder = fill(small_disk / "shop.gallery")
    before = small_contents(folder)
    assert not os.system(f"mount -o remount,ro '{small_disk}'")
    assert small_contents(folder) == before
    with Gallery.open(folder) as gallery:
        assert not gallery.refresh()
        assert gallery.thumbnail("shoes/1") == jpeg(1)
    for refused in (writer, repair):
        with pytest.raises(GalleryError, match="Read-only file system"):
            refused(folder)


def test_a_folder_may_be_moved(folder, tmp_path):
    before = contents(folder)
    shutil.move(folder, tmp_path / "moved")
    assert contents(tmp_path / "moved") == before
    assert vectors_file(tmp_path / "moved").parent.is_dir()
