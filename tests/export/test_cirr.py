"""Read CIRR's layout: a made folder, and the real annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cir_rt.errors import DataError
from cir_rt.export.data.formats import open_dataset

MEMBERS = ["a", "b", "c", "d", "e", "f"]


def entry(pair: int, reference: str, target: str | None, caption: str = "two dogs") -> dict:
    known = {"target_hard": target, "target_soft": {target: 1.0}} if target else {}
    group = {"id": 1, "members": MEMBERS, "reference_rank": 0}
    return {"pairid": pair, "reference": reference, "caption": caption, "img_set": group, **known}


def made(folder: Path, split: str, entries: list[dict[str, Any]]) -> Path:
    for part in ("captions", "image_splits"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / f"captions/cap.rc2.{split}.json").write_text(json.dumps(entries))
    files = {i: f"./{split}/7/{i}.png" for i in [*MEMBERS, "g"]}
    (folder / f"image_splits/split.rc2.{split}.json").write_text(json.dumps(files))
    return folder


def test_a_made_folder_is_read(tmp_path: Path) -> None:
    made(tmp_path, "val", [entry(7, "c", "a"), entry(8, "a", "g")])
    dataset = open_dataset(tmp_path)
    split = dataset.split("val")
    assert (dataset.name, split.protocol.name) == ("cirr", "cirr")
    assert split.protocol.keep_reference is False
    assert split.galleries == {"all": (*MEMBERS, "g")}
    query = split.queries[0]
    assert (query.key, query.reference, query.text) == ("7", "c", "two dogs")
    assert query.targets == ("a",)
    assert query.subset == ("a", "b", "d", "e", "f")  # the other five


def test_what_was_not_held_against_published_files_says_so(tmp_path: Path) -> None:
    for name in ("train", "val"):
        made(tmp_path, name, [entry(7, "c", "a")])
    dataset = open_dataset(tmp_path)
    assert "not verified" in str(dataset.split("train").protocol)
    assert "not verified" not in str(dataset.split("val").protocol)


def test_the_test_split_has_no_targets(tmp_path: Path) -> None:
    made(tmp_path, "test1", [entry(7, "c", None), entry(8, "c", None, " ")])
    split = open_dataset(tmp_path).split("test1")
    assert not split.labelled
    assert split.queries[0].targets == ()
    assert split.queries[1].text.strip()  # encoders refuse an empty text


def test_pictures_are_found_by_name_in_any_folder(tmp_path: Path) -> None:
    made(tmp_path, "val", [entry(7, "c", "a")])
    dataset = open_dataset(tmp_path)
    for name in MEMBERS:
        path = tmp_path / f"images/val/{ord(name)}/{name}.png"
        path.parent.mkdir(parents=True)
        path.touch()
    found = dataset.paths(["b", "a"])
    assert [p.relative_to(tmp_path).as_posix() for p in found] == [
        "images/val/98/b.png",
        "images/val/97/a.png",
    ]
    with pytest.raises(DataError, match=r"^1 of 7 pictures are missing below .*images: g$"):
        dataset.paths(dataset.split("val").pictures)


@pytest.mark.parametrize("key", ["pairid", "reference", "caption", "img_set"])
def test_a_lacking_key_is_named(tmp_path: Path, key: str) -> None:
    wrong = entry(7, "c", "a")
    del wrong[key]
    made(tmp_path, "val", [wrong])
    with pytest.raises(DataError, match=r"cap\.rc2\.val\.json: expected pairid, reference"):
        open_dataset(tmp_path)


def test_real_annotations_have_their_published_counts(real_data: Path) -> None:
    dataset = open_dataset(real_data / "annotations/cirr")
    assert dataset.name == "cirr"
    counts = {"val": (4181, 2297), "test1": (4148, 2315)}
    assert set(dataset.splits) == set(counts)
    for name, (queries, pictures) in counts.items():
        split = dataset.split(name)
        assert (len(split.queries), len(split.pictures)) == (queries, pictures)
        assert len({query.key for query in split.queries}) == queries
        assert split.labelled == (name == "val")
        gallery = set(split.galleries["all"])
        for query in split.queries:
            assert len(query.subset) == 5
            assert query.reference not in query.subset
            assert {query.reference, *query.subset, *query.targets} <= gallery
            assert set(query.targets) <= set(query.subset)
    with pytest.raises(DataError, match=r"2297 of 2297 pictures are missing below .*, …$"):
        dataset.paths(dataset.split("val").pictures)
