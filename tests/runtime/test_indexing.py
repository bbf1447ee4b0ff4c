"""From folders of picture files to a gallery."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cir_rt.errors import DataError, UnknownId
from cir_rt.gallery import Gallery
from cir_rt.gallery.indexing import IndexReport, Source, find_pictures, index_pictures, thumbnail
from cir_rt.preprocess import Preprocess
from cir_rt.retriever import Retriever


class MeanColour:
    """An encoder that a reader can follow: a vector is the picture's mean colour."""

    preprocess = Preprocess(size=8)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(len(pixels))
        means = pixels.mean((2, 3)).astype(np.float32) + np.float32(2)
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def paint(path: Path, seed: int, size: tuple[int, int] = (24, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = tuple(np.random.default_rng(seed).integers(0, 256, 3).tolist())
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k in range(5):
        paint(tmp_path / "photos" / f"{k}.png", k)
    paint(tmp_path / "photos" / "more" / "5.JPG", 5)
    (tmp_path / "photos" / "notes.txt").write_text("not a picture")
    return tmp_path / "photos"


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.open_writer(tmp_path / "gallery", fingerprint="a" * 64, dim=3) as opened:
        yield opened


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.added, report.updated, report.unchanged, report.pictures


def test_ids_are_paths_without_suffix(photos: Path) -> None:
    found = find_pictures([photos])
    assert [s.id for s in found] == ["0", "1", "2", "3", "4", "more/5"]
    assert found[-1].path == photos / "more" / "5.JPG"
    assert all(not s.metadata for s in found)
    assert find_pictures([]) == []


def test_several_folders(photos: Path, tmp_path: Path) -> None:
    paint(tmp_path / "other" / "x.webp", 9)
    found = find_pictures([photos, tmp_path / "other"])
    assert [s.id for s in found][-1] == "x"
    paint(tmp_path / "other" / "0.webp", 9)
    with pytest.raises(DataError, match=r"same id '0'.*--metadata"):
        find_pictures([photos, tmp_path / "other"])


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_pictures([tmp_path / "missing"])


def test_one_stem_twice_is_refused(photos: Path) -> None:
    paint(photos / "0.jpg", 7)
    with pytest.raises(DataError, match="same id '0'"):
        find_pictures([photos])


ROWS: list[dict[str, Any]] = [
    {"id": "red one", "file": "0.png", "price": "3"},
    {"id": "1", "price": "4, or 5"},
    {"id": "deep", "file": "more/5.JPG", "price": 'a "bargain"'},
]


def test_metadata_as_csv_and_jsonl(photos: Path, tmp_path: Path) -> None:
    table, lines = tmp_path / "m.csv", tmp_path / "m.jsonl"
    table.write_text(
        'id,file,price\nred one,0.png,3\n1,,"4, or 5"\ndeep,more/5.JPG,"a ""bargain"""\n'
    )
    lines.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    for metadata in (table, lines):
        found = {s.id: s for s in find_pictures([photos], metadata)}
        assert set(found) == {"red one", "1", "2", "3", "4", "deep"}
        assert found["red one"].path.name == "0.png"
        assert found["deep"].path.name == "5.JPG"
        assert found["red one"].metadata == {"price": "3"}
        assert found["1"].metadata == {"price": "4, or 5"}
        assert found["deep"].metadata == {"price": 'a "bargain"'}
        assert found["2"].metadata == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "name,price\na,3\n"),
        ("m.jsonl", '{"name": "a"}\n'),
        ("m.jsonl", "[1, 2]\n"),
        ("m.jsonl", "not json\n"),
        ("m.csv", None),
    ],
)
def test_metadata_of_another_shape_is_refused(
    photos: Path, tmp_path: Path, name: str, content: str | None
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}.*'id' in each row"):
        find_pictures([photos], tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        pytest.param("m.csv", "\ufeffid,n\n0,x\n", "x", id="byte order mark, as Excel writes"),
        pytest.param("m.csv", 'id,n\n0,"two\nlines"\n', "two\nlines", id="line break in a cell"),
        pytest.param("m.jsonl", '{"id": "0", "n": "a\u2028b"}\n', "a\u2028b", id="U+2028 in JSON"),
    ],
)
def test_metadata_that_programs_write(
    photos: Path, tmp_path: Path, name: str, content: str, expected: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert find_pictures([photos], tmp_path / name)[0].metadata == {"n": expected}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("m.csv", "id,n\n0,x,y\n", id="more cells than columns"),
        pytest.param("m.csv", "id,n\n0,x\n0,y\n", id="an id twice"),
        pytest.param("m.csv", "id,file\nx,0.png\ny,0.png\n", id="a file twice"),
        pytest.param("m.jsonl", '{"id": "0", "n": NaN}\n', id="NaN"),
    ],
)
def test_metadata_that_cannot_be_right_is_refused_before_any_work(
    photos: Path, tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError):
        find_pictures([photos], tmp_path / name)


def test_what_is_stored(photos: Path, gallery: Gallery) -> None:
    encoder, sources = MeanColour(), find_pictures([photos])
    assert counts(index_pictures(encoder, gallery, sources)) == (6, 0, 0, 6)
    for source in sources:
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
    assert "2 frames" in reasons["moving"]
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


@pytest.mark.parametrize("size", [(1, 1), (7, 19), (256, 256), (989, 111), (300, 600)])
def test_thumbnails(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (200, 30, 30))
    with Image.open(io.BytesIO(thumbnail(image))) as found:
        assert (found.format, found.mode) == ("JPEG", "RGB")
        if max(size) <= 256:
            assert found.size == size
        else:
            assert max(found.size) == 256
            assert min(found.size) == pytest.approx(256 * min(size) / max(size), abs=1)
        assert np.abs(np.asarray(found).astype(int) - (200, 30, 30)).max() < 6
    assert image.size == size


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


def test_a_table_of_other_pictures_is_refused(photos: Path) -> None:
    table = photos.parent / "m.csv"
    table.write_text("id,price\n0.png,5\n")
    with pytest.raises(DataError, match="none of its 1 ids"):
        find_pictures([photos], table)
