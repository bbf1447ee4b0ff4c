"""Read plain triplets: made folders, and the real product photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cir_rt.errors import DataError
from cir_rt.export.data.formats import open_dataset


def line(reference: str = "a", caption: Any = "in red", targets: Any = ("b",)) -> str:
    return json.dumps({"reference": reference, "caption": caption, "targets": targets})


def made(folder: Path, *lines: str, gallery: str = "a\nb\nc\n") -> Path:
    (folder / "val.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "gallery.val.txt").write_text(gallery, encoding="utf-8")
    return folder


def test_a_made_folder_is_read(tmp_path: Path) -> None:
    made(tmp_path, line(), "", line("c", "in blue", ["a", "b"]), gallery="a\nb\n\nd\na\n")
    (tmp_path / "train.jsonl").write_text(line("t", "in green", ["u"]) + "\n")
    dataset = open_dataset(tmp_path)
    assert (dataset.name, set(dataset.splits)) == ("triplets", {"train", "val"})
    split = dataset.split("val")
    assert [(q.reference, q.text, q.targets) for q in split.queries] == [
        ("a", "in red", ("b",)),
        ("c", "in blue", ("a", "b")),
    ]
    assert split.galleries == {"all": ("a", "b", "d")}
    assert split.pictures == ("a", "b", "d", "c")
    assert split.protocol.keep_reference is False
    assert dataset.split("train").galleries == {"all": ("t", "u")}


@pytest.mark.parametrize(
    "wrong",
    [
        "{",
        "[]",
        "7",
        json.dumps({"reference": "a", "caption": "in red"}),
        json.dumps({"caption": "in red", "targets": ["b"]}),
        json.dumps({"reference": "a", "targets": ["b"]}),
        line(targets=3),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, wrong: str) -> None:
    made(tmp_path, line(), wrong)
    with pytest.raises(DataError, match=r"val\.jsonl:2: expected reference, caption and targets"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [line(targets=[]), line(targets="bc"), line(caption=None), line(caption=5)],
    ids=["no targets", "targets are a word", "no caption", "caption is a number"],
)
def test_a_line_that_cannot_be_scored_is_named(tmp_path: Path, wrong: str) -> None:
    made(tmp_path, line(), wrong)
    with pytest.raises(DataError, match=r"val\.jsonl:2"):
        open_dataset(tmp_path)


def test_ids_may_hold_spaces(tmp_path: Path) -> None:
    made(tmp_path, line("red dress 1"), gallery="red dress 1\nb\n")
    assert open_dataset(tmp_path).split("val").galleries["all"] == ("red dress 1", "b")


def test_numbers_are_ids_too(tmp_path: Path) -> None:
    made(tmp_path, json.dumps({"reference": 7, "caption": "in red", "targets": [8]}))
    (query,) = open_dataset(tmp_path).split("val").queries
    assert (query.reference, query.targets) == ("7", ("8",))


def test_galleries_without_queries_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "gallery.val.txt").write_text("a\n")
    with pytest.raises(DataError, match="jsonl"):
        open_dataset(tmp_path)


def grouped(reference: str, target: str, group: str | int) -> str:
    return json.dumps(
        {"reference": reference, "caption": "in red", "targets": [target], "group": group}
    )


def test_training_lines_tell_which_pictures_show_one_product(tmp_path: Path) -> None:
    made(tmp_path, grouped("x", "y", "of val"))
    lines = [grouped("a", "b", 1), grouped("b", "a", 1), line("c", targets=["d"])]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    assert open_dataset(tmp_path).products == {"a": "1", "b": "1"}
    (tmp_path / "labels.csv").write_text("id,group,colour\na,shoe,red\nz,shoe,blue\n")
    assert open_dataset(tmp_path).products == {"a": "shoe", "z": "shoe"}


def test_a_picture_of_two_products_is_named(tmp_path: Path) -> None:
    lines = grouped("a", "b", "one"), grouped("c", "b", "two")
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match="picture b is in the groups one and two"):
        open_dataset(tmp_path)


def test_pictures_for_self_training_are_listed_apart(tmp_path: Path) -> None:
    """They are neither ranked nor encoded in an evaluation."""
    made(tmp_path, line("a", targets=["b"]))
    (tmp_path / "train.jsonl").write_text(line("t", targets=["u"]))
    (tmp_path / "gallery.train.txt").write_text("t\nu\nv\n")
    (tmp_path / "unlabelled.train.txt").write_text("w\nt\nv\n")
    dataset = open_dataset(tmp_path)
    assert dataset.unlabelled("train") == ("v", "w")
    assert dataset.unlabelled("val") == ("c",)
    assert dataset.split("train").pictures == ("t", "u", "v")


def test_real_product_photos(real_data: Path) -> None:
    dataset = open_dataset(real_data / "fpi")
    val, train = dataset.split("val"), dataset.split("train")
    assert (len(val.queries), len(val.galleries["all"])) == (1789, 2146)
    assert len(train.queries) == 15202
    assert len(train.pictures) == 4171
    assert set(train.pictures) <= set(dataset.labels)
    gallery = set(val.galleries["all"])
    for query in val.queries:
        assert query.targets
        assert {query.reference, *query.targets} <= gallery
        assert query.reference not in query.targets
    assert len(dataset.paths(val.pictures)) == 2146
    assert set(dataset.products) == set(train.pictures)
    assert len(set(dataset.products.values())) == 891
    assert (len(dataset.unlabelled("train")), len(dataset.unlabelled("val"))) == (0, 1640)
