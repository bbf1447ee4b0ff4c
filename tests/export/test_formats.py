"""Recognise dataset folders, and read labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from cir_rt.errors import DataError
from cir_rt.export.data.formats import open_dataset, read_groups, read_ids, read_labels


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


def test_the_group_is_no_part_of_the_phrase(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("id,group,colour\na,shoe 1,red\nb,shoe 1,blue\nc,,green\n")
    assert read_labels(path) == {"a": ("red",), "b": ("blue",), "c": ("green",)}
    assert read_groups(path) == {"a": "shoe 1", "b": "shoe 1"}
    assert read_groups(tmp_path / "nowhere.csv") == {}


def test_a_list_is_its_lines_each_once(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("b\n\n a 1 \nb\n")
    assert read_ids(path) == ("b", "a 1")
    with pytest.raises(DataError, match=r"gone\.txt: not readable as a list"):
        read_ids(tmp_path / "gone.txt")
