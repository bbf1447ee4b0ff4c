"""Which pictures there are to index, and what a table says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_photos import paint, photo_folder

from cir_rt.errors import DataError
from cir_rt.gallery.sources import find_pictures


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos")


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


def test_a_table_of_other_pictures_is_refused(photos: Path) -> None:
    table = photos.parent / "m.csv"
    table.write_text("id,price\n0.png,5\n")
    with pytest.raises(DataError, match="none of its 1 ids"):
        find_pictures([photos], table)
