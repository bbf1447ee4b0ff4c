"""Recognise dataset folders, and read labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from cir_rt.errors import DataError
from cir_rt.export.data.formats import open_dataset, read_labels


def test_an_unknown_folder_is_told_what_would_be_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fashioniq: captions/.*triplets: "):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(str(tmp_path / "file"))


def test_labels_are_an_attribute_phrase_with_the_title(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    rows = [
        "id,colour,kind,title",
        'a,red,dress,"Red, long dress"',
        "b,blue,,",
        "c,,,Plain",
        "d,,,",
    ]
    path.write_text("\n".join(rows) + "\n")
    assert read_labels(path) == {
        "a": ("red dress", "Red, long dress"),
        "b": ("blue",),
        "c": ("Plain",),
        "d": (),
    }


def test_labels_may_lack_a_title_but_not_an_id(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("colour,id\nred,a\n")
    assert read_labels(path) == {"a": ("red",)}
    path.write_text("name,colour\na,red\n")
    with pytest.raises(DataError, match=r"labels\.csv: has no column 'id'\. It has: name, colour"):
        read_labels(path)


def test_no_labels_are_an_empty_table(tmp_path: Path) -> None:
    assert read_labels(tmp_path / "labels.csv") == {}
    (tmp_path / "labels.csv").write_text("")
    assert read_labels(tmp_path / "labels.csv") == {}
