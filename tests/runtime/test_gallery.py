"""The gallery on disk: what is added, changed, deleted and shown."""

from __future__ import annotations

import sqlite3
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_gallery import (
    DIM,
    MODEL,
    batch,
    contents,
    fill,
    item,
    jpeg,
    vector,
    vectors_file,
    writer,
)

from cir_rt.errors import GalleryError, GalleryMismatch, UnknownId, UsageError
from cir_rt.gallery import Gallery, catalog


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "shoes.gallery"


@pytest.fixture
def filled(folder):
    return fill(folder)


def test_reopen(filled):
    with Gallery.open(filled, fingerprint=MODEL) as gallery:
        assert gallery.ids() == [f"shoes/{n}" for n in range(5)]
        assert (len(gallery), gallery.generation, gallery.dim) == (5, 2, DIM)
        assert gallery.fingerprint == MODEL
        assert "shoes/3" in gallery
        assert "shoes/5" not in gallery
        assert "" not in gallery
        assert None not in gallery
        np.testing.assert_array_equal(gallery.vectors, [vector(n) for n in range(5)])
        assert gallery.live.all()
        assert not gallery.vectors[:].flags.writeable
        assert not gallery.live.flags.writeable
        assert gallery.row("shoes/3") == 3
        assert gallery.thumbnail("shoes/3") == jpeg(3)
        assert gallery.items([4, 1]) == [("shoes/4", {"n": 4}), ("shoes/1", {"n": 1})]
        assert "5 pictures" in repr(gallery)


def test_empty(folder):
    with writer(folder) as gallery:
        gallery.add([])
        assert gallery.generation == 0
    with Gallery.open(folder) as gallery:
        assert gallery.vectors.shape == (0, DIM)
        assert gallery.live.shape == (0,)
        assert gallery.ids() == []
        assert gallery.verify() == []
        with pytest.raises(UnknownId):
            gallery.row("shoes/0")


def test_update_appends_and_buries(filled):
    with writer(filled) as gallery:
        gallery.add([item("shoes/1", 7, metadata={"new": True}), item("shoes/9", 9)])
        assert gallery.ids() == ["shoes/0", "shoes/2", "shoes/3", "shoes/4", "shoes/1", "shoes/9"]
        assert gallery.row("shoes/1") == 5
        assert gallery.live.tolist() == [True, False, True, True, True, True, True]
        gallery.add([item("shoes/1", 8)])
        assert gallery.generation == 4
    held = contents(filled)
    assert held["shoes/1"] == (vector(8).tobytes(), jpeg(8), {})
    assert len(held) == 6


def test_delete_is_all_or_none(filled):
    with writer(filled) as gallery:
        with pytest.raises(UnknownId, match=r"'shoes/77'.*Nearest: shoes/"):
            gallery.delete(["shoes/0", "shoes/77"])
        assert gallery.generation == 2
        assert gallery.delete([]) == 0
        assert gallery.delete(["shoes/0", "shoes/3", "shoes/0"]) == 2
        assert gallery.generation == 3
        with pytest.raises(UnknownId):
            gallery.vector("shoes/0")
        with pytest.raises(GalleryError, match="row 3"):
            gallery.items([3])
        gallery.add(batch(3))
        assert gallery.delete(["shoes/3"]) == 1
        gallery.add(batch(3))
    assert list(contents(filled)) == ["shoes/1", "shoes/2", "shoes/4", "shoes/3"]


def test_what_is_stored_can_be_skipped(filled):
    with Gallery.open(filled) as gallery:
        assert gallery.source_hashes(["shoes/2", "nope"]) == {"shoes/2": f"{2:064x}"}
        assert gallery.unchanged("shoes/2", f"{2:064x}", {"n": 2})
        assert not gallery.unchanged("shoes/2", f"{2:064x}", {"n": 3})
        assert not gallery.unchanged("shoes/2", f"{3:064x}", {"n": 2})
        assert not gallery.unchanged("nope", f"{2:064x}", {"n": 2})


def test_another_model_is_refused(filled):
    other = "fedcba9876543210" * 4
    expected = "0123456789ab.*fedcba987654.*cir-rt index BUNDLE IMAGE_DIR --gallery NEW"
    with pytest.raises(GalleryMismatch, match=expected):
        Gallery.open(filled, fingerprint=other)
    with pytest.raises(GalleryMismatch, match=expected):
        Gallery.open_writer(filled, fingerprint=other, dim=DIM)
    with pytest.raises(GalleryMismatch, match="vectors of 8 numbers"):
        Gallery.open_writer(filled, fingerprint=MODEL, dim=DIM + 1)
    writer(filled).close()  # the refusals let go of the lock


def test_another_format_is_refused(filled):
    with sqlite3.connect(filled / "gallery.sqlite") as db:
        db.execute("PRAGMA user_version = 9")
    for refused in (Gallery.open, writer):
        with pytest.raises(GalleryError, match="format 9; this cir-rt reads format 2"):
            refused(filled)


def test_no_gallery(folder, tmp_path):
    with pytest.raises(GalleryError, match="cir-rt index"):
        Gallery.open(folder)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(GalleryError, match=r"photo\.jpg"):
        writer(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(GalleryError, match="exists"):
        writer(tmp_path / "photo.jpg")
    with pytest.raises(UsageError):
        Gallery.open_writer(folder, fingerprint=MODEL, dim=0)
    folder.mkdir()
    (folder / "gallery.sqlite").write_bytes(b"this is no database, however long it may be" * 99)
    for refused in (Gallery.open, writer):
        with pytest.raises(GalleryError, match="not a database"):
            refused(folder)


def test_one_writer(filled):
    with writer(filled) as first:
        with pytest.raises(GalleryError, match="held by another writer"):
            writer(filled)
        with Gallery.open(filled) as reader:
            for change in (lambda: reader.add(batch(9)), lambda: reader.delete(["shoes/1"])):
                with pytest.raises(GalleryError, match="opened for reading"):
                    change()
        first.add(batch(5))
    writer(filled).close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": ""}, "1 to 512"),
        ({"id": "x" * 513}, "1 to 512"),
        ({"id": "a\nb"}, "control"),
        ({"id": "a\x85b"}, "control"),
        ({"id": "a\ud800"}, "cannot be stored"),
        ({"id": 7}, "cannot be stored"),
        ({"id": "shoes/1"}, "given twice"),
        ({"vector": np.zeros(DIM)}, "float64"),
        ({"vector": [0.0] * DIM}, "list"),
        ({"vector": np.zeros(DIM + 1, np.float32)}, "shape"),
        ({"vector": np.zeros((1, DIM), np.float32)}, "shape"),
        ({"vector": np.full(DIM, np.inf, np.float32)}, "infinity"),
        ({"thumbnail": b"png"}, "JPEG"),
        ({"source_hash": None}, "sha256"),
        ({"metadata": {"x": float("nan")}}, "JSON"),
        ({"metadata": {1: "x"}}, "JSON"),
        ({"metadata": {"x": (1, 2)}}, "JSON"),
        ({"metadata": {"x": {1, 2}}}, "JSON"),
        ({"metadata": {"x": "\ud800"}}, "JSON"),
        ({"metadata": [1, 2]}, "JSON"),
    ],
)
def test_a_bad_item_is_refused_before_any_work(filled, changes, reason):
    before = vectors_file(filled).read_bytes()
    with writer(filled) as gallery:
        bad = item(
            **{"item_id": "bad", **{{"id": "item_id"}.get(k, k): changes[k] for k in changes}}
        )
        with pytest.raises(GalleryError, match=reason):
            gallery.add([*batch(1), bad])
        assert gallery.generation == 2
    assert vectors_file(filled).read_bytes() == before
    assert len(contents(filled)) == 5


def test_refresh_moves_a_reader_and_old_arrays_stay(filled):
    with Gallery.open(filled) as reader, writer(filled) as gallery:
        vectors, live = reader.vectors, reader.live
        assert not reader.refresh()
        gallery.add([item("shoes/0", 0), *batch(5)])
        gallery.delete(["shoes/1"])
        assert reader.ids() == [f"shoes/{n}" for n in range(5)]  # still at its own generation
        assert reader.row("shoes/0") == 0
        assert reader.items([0, 1]) == [("shoes/0", {"n": 0}), ("shoes/1", {"n": 1})]
        assert "shoes/5" not in reader
        assert reader.verify() == []
        assert reader.refresh()
        assert not reader.refresh()
        assert reader.ids() == ["shoes/2", "shoes/3", "shoes/4", "shoes/0", "shoes/5"]
        assert reader.generation == gallery.generation == 4
        assert live.all()
        assert reader.live.tolist() == [False, False, True, True, True, True, True]
        np.testing.assert_array_equal(vectors, reader.vectors[:5])
    np.testing.assert_array_equal(vectors, [vector(n) for n in range(5)])


def test_a_read_only_medium(filled, monkeypatch):
    monkeypatch.setattr(catalog.os, "access", lambda *_: False)
    with Gallery.open(filled) as reader:
        assert reader._catalog._immutable
        assert len(reader) == 5
        assert not list(filled.glob("*-shm"))
        with writer(filled) as gallery:
            gallery.add(batch(5))
        assert reader.refresh()
        assert len(reader) == 6


def test_a_closed_gallery_says_so(filled):
    gallery = writer(filled)
    gallery.close()
    gallery.close()
    with pytest.raises(GalleryError, match="closed"):
        gallery.row("shoes/0")
    with pytest.raises(GalleryError):
        gallery.add(batch(9))


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_PICTURES = st.dictionaries(_IDS, st.dictionaries(_TEXT, _JSON, max_size=3), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    with writer(tmp_path_factory.mktemp("growing")) as gallery:
        gallery._catalog._db.execute("PRAGMA synchronous = OFF")  # hundreds of commits to wait for
        yield gallery


@settings(max_examples=400, deadline=None)
@given(pictures=_PICTURES, odd=st.text(string.printable, max_size=9))
def test_ids_and_metadata_round_trip(growing, pictures, odd):
    before, source = set(growing.ids()), f"{growing.generation:064x}"
    growing.add([item(i, metadata=held, source_hash=source) for i, held in pictures.items()])
    with Gallery.open(growing.folder) as gallery:
        assert gallery.ids()[-len(pictures) :] == list(pictures)
        assert set(gallery.ids()) == before | set(pictures)
        for item_id, metadata in pictures.items():
            assert gallery.items([gallery.row(item_id)]) == [(item_id, metadata)]
            assert gallery.unchanged(item_id, source, metadata)
        assert (odd in gallery) == (odd in before | set(pictures))
