"""From picture files to a gallery."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_photos import MeanColour, counts, paint, photo_folder

from cir_rt.errors import UnknownId
from cir_rt.gallery import Gallery
from cir_rt.gallery.facts import TokenFormat
from cir_rt.gallery.indexing import Source, find_pictures, index_pictures
from cir_rt.retriever import Retriever


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos")


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.open_writer(tmp_path / "gallery", fingerprint="a" * 64, dim=3) as opened:
        yield opened


def test_what_is_stored(photos: Path, gallery: Gallery) -> None:
    encoder, sources = MeanColour(), find_pictures([photos])
    assert counts(index_pictures(encoder, gallery, sources)) == (6, 0, 0, 6)
    for source in sources:
        assert source.path is not None
        pixels = encoder.preprocess([source.path])
        np.testing.assert_allclose(
            gallery.vector(source.id), encoder.encode_pixels(pixels)[0], atol=1e-6
        )
        digest = hashlib.sha256(source.path.read_bytes()).hexdigest()
        assert gallery.source_hashes([source.id]) == {source.id: digest}
    assert gallery.verify() == []


def test_only_what_changed_is_encoded(photos: Path, gallery: Gallery) -> None:
    encoder = MeanColour()
    index_pictures(encoder, gallery, find_pictures([photos]))
    encoder.batches.clear()
    assert counts(index_pictures(encoder, gallery, find_pictures([photos]))) == (0, 0, 6, 6)
    assert encoder.batches == []
    assert gallery.generation == 1
    before = gallery.vector("2")
    paint(photos / "2.png", 77)
    paint(photos / "new.png", 78)
    assert counts(index_pictures(encoder, gallery, find_pictures([photos]))) == (1, 1, 5, 7)
    assert encoder.batches == [2]
    assert not np.array_equal(gallery.vector("2"), before)


def test_changed_metadata_counts_as_changed(photos: Path, gallery: Gallery) -> None:
    encoder = MeanColour()
    index_pictures(encoder, gallery, find_pictures([photos]))
    source = Source(id="2", path=photos / "2.png", metadata={"price": 3})
    assert counts(index_pictures(encoder, gallery, [source])) == (0, 1, 0, 6)
    assert gallery.items([gallery.row("2")]) == [("2", {"price": 3})]
    assert counts(index_pictures(encoder, gallery, [source])) == (0, 0, 1, 6)


def test_the_unreadable_are_reported_and_the_rest_is_indexed(
    photos: Path, gallery: Gallery
) -> None:
    index_pictures(MeanColour(), gallery, find_pictures([photos]))
    before = gallery.vector("1")
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:40])
    (photos / "bad.jpg").write_text("not a picture")
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    sources = [*find_pictures([photos]), Source(id="gone", path=photos / "gone.png")]
    report = index_pictures(MeanColour(), gallery, sources)
    assert counts(report) == (0, 0, 5, 6)
    reasons = dict(report.unreadable)
    assert set(reasons) == {"1", "bad", "moving", "gone"}
    assert "animated" in reasons["moving"]
    assert "not a picture" in reasons["bad"]
    np.testing.assert_array_equal(gallery.vector("1"), before)


def test_a_name_that_cannot_be_an_id_is_reported(photos: Path, gallery: Gallery) -> None:
    os.rename(photos / "3.png", os.fsencode(photos) + b"/\xff.png")
    report = index_pictures(MeanColour(), gallery, find_pictures([photos]))
    assert (report.added, len(report.unreadable)) == (5, 1)


def test_batches_and_progress(photos: Path, gallery: Gallery) -> None:
    for k in range(150):
        paint(photos / "many" / f"{k:03d}.png", k, (8, 8))
    encoder, told = MeanColour(), []
    sources = find_pictures([photos / "many"])
    index_pictures(encoder, gallery, sources, progress=lambda *step: told.append(step))
    assert encoder.batches == [64, 64, 22]
    assert told == [(64, 150), (128, 150), (150, 150)]
    assert gallery.ids() == [s.id for s in sources]


def test_what_was_done_before_an_interrupt_stays(photos: Path, gallery: Gallery) -> None:
    for k in range(80):
        paint(photos / "many" / f"{k:03d}.png", k, (8, 8))
    sources = find_pictures([photos / "many"])

    def interrupt(done: int, _: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_pictures(MeanColour(), gallery, sources, progress=interrupt)
    assert len(gallery) == 64
    assert counts(index_pictures(MeanColour(), gallery, sources)) == (16, 0, 64, 80)


def test_nothing_to_index(gallery: Gallery) -> None:
    assert counts(index_pictures(MeanColour(), gallery, [])) == (0, 0, 0, 0)


def test_the_retriever_deletes_before_it_adds(bundle: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shoes.gallery"
    with Retriever.open(bundle, threads=1) as retriever:
        first = retriever.index(find_pictures([photos]), folder)
        assert (first.added, first.deleted, first.pictures) == (6, 0, 6)
        again = retriever.index(find_pictures([photos]), folder, delete=["0", "more/5"])
        assert (again.added, again.unchanged, again.deleted, again.pictures) == (2, 4, 2, 6)
        with pytest.raises(UnknownId, match="'nobody'"):
            retriever.index([], folder, delete=["1", "nobody"])
        with Gallery.open(folder) as gallery:
            assert len(gallery) == 6
            assert "1" in gallery


def test_stored_metadata_stays_where_no_table_is_given(photos: Path, gallery: Gallery) -> None:
    table = photos.parent / "m.csv"
    table.write_text("id,price\n0,5\n")
    index_pictures(MeanColour(), gallery, find_pictures([photos], table))
    again = index_pictures(MeanColour(), gallery, find_pictures([photos]))
    assert counts(again) == (0, 0, 6, 6)
    paint(photos / "0.png", 99)
    assert counts(index_pictures(MeanColour(), gallery, find_pictures([photos]))) == (0, 1, 5, 6)
    assert gallery.items([gallery.row("0")]) == [("0", {"price": "5"})]


def test_new_metadata_alone_costs_no_encoding(photos: Path, gallery: Gallery) -> None:
    encoder = MeanColour()
    index_pictures(encoder, gallery, find_pictures([photos]))
    encoder.batches.clear()
    before = gallery.vector("0"), gallery.thumbnail("0")
    table = photos.parent / "m.csv"
    table.write_text("id,price\n0,5\n1,6\nnobody,7\n")
    for folders in ([photos], []):  # with the pictures at hand, and without
        report = index_pictures(encoder, gallery, find_pictures(folders, table))
        assert encoder.batches == []
        assert report.unmatched == ("nobody",)
    assert counts(report) == (0, 0, 2, 6)
    assert gallery.items([gallery.row("1")]) == [("1", {"price": "6"})]
    np.testing.assert_array_equal(gallery.vector("0"), before[0])
    assert gallery.thumbnail("0") == before[1]
    assert gallery.verify() == []


def test_new_metadata_leaves_candidate_tokens(photos: Path, tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    kept = TokenFormat(fingerprint="b" * 64, count=2, width=4)
    with Gallery.open_writer(
        tmp_path / "gallery", fingerprint="a" * 64, dim=3, tokens=kept
    ) as gallery:
        index_pictures(MeanColour(), gallery, find_pictures([photos]))
        gallery.add_tokens({"0": tokens})
        stored = gallery.tokens([gallery.row("0")])
        new = [Source(id=i, path=None, metadata={"price": 5}) for i in ("0", "1")]
        assert counts(index_pictures(MeanColour(), gallery, new)) == (0, 2, 0, 6)
        np.testing.assert_allclose(gallery.tokens([gallery.row("0")]), stored, atol=1e-6)
        assert "0" not in gallery.ids_without_tokens()
        assert "1" in gallery.ids_without_tokens()
