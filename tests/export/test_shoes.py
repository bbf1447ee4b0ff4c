"""Read the Shoes layout: a made folder, and the real annotations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cir_rt.errors import DataError
from cir_rt.export.data.formats import open_dataset


def pair(reference: str, target: str, caption: str = "has a bow") -> dict[str, str]:
    return {
        "ImageName": f"{target}.jpg",
        "ReferenceImageName": f"{reference}.jpg",
        "RelativeCaption": caption,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pairs = [pair("a", "b"), pair("x", "y", "is red"), pair("b", "a")]
    (tmp_path / "relative_captions_shoes.json").write_text(json.dumps(pairs))
    (tmp_path / "train_im_names.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
    (tmp_path / "eval_im_names.txt").write_text("x.jpg\ny.jpg\nz.jpg\n")
    single = [{"ImageName": "c.jpg", "Caption": "black high heels"}]
    (tmp_path / "captions_shoes.json").write_text(json.dumps(single))
    return tmp_path


def test_a_made_folder_is_read(folder: Path) -> None:
    dataset = open_dataset(folder)
    train, val = dataset.split("train"), dataset.split("val")
    assert dataset.name == "shoes"
    assert [(q.reference, q.targets, q.text) for q in val.queries] == [("x", ("y",), "is red")]
    assert [q.reference for q in train.queries] == ["a", "b"]
    assert val.galleries == {"all": ("x", "y", "z")}
    assert dataset.labels == {"c": ("black high heels",)}
    assert dataset.unlabelled("train") == ("c",)
    assert val.protocol.keep_reference is False
    assert val.protocol.ks == (1, 10, 50)
    assert val.protocol.mean_of == ("R@1", "R@10", "R@50")


def test_pictures_are_found_by_name_in_any_folder(folder: Path) -> None:
    path = folder / "images/womens_boots/0/x.jpg"
    path.parent.mkdir(parents=True)
    path.touch()
    dataset = open_dataset(folder)
    assert dataset.paths(["x"]) == [path]
    with pytest.raises(DataError, match="2 of 3 pictures are missing"):
        dataset.paths(dataset.split("val").pictures)


def test_the_single_captions_may_be_absent(folder: Path) -> None:
    (folder / "captions_shoes.json").unlink()
    assert open_dataset(folder).labels == {}


def test_a_pair_of_no_split_is_named(folder: Path) -> None:
    (folder / "relative_captions_shoes.json").write_text(json.dumps([pair("nowhere", "a")]))
    with pytest.raises(DataError, match=r"nowhere is in neither train_im_names\.txt nor eval"):
        open_dataset(folder)


@pytest.mark.parametrize("key", ["ImageName", "ReferenceImageName", "RelativeCaption"])
def test_a_lacking_key_is_named(folder: Path, key: str) -> None:
    wrong = pair("a", "b")
    del wrong[key]
    (folder / "relative_captions_shoes.json").write_text(json.dumps([wrong]))
    with pytest.raises(DataError, match=r"shoes\.json: expected ReferenceImageName"):
        open_dataset(folder)


def test_a_missing_list_is_named(folder: Path) -> None:
    (folder / "eval_im_names.txt").unlink()
    with pytest.raises(DataError, match=r"eval_im_names\.txt: not readable"):
        open_dataset(folder)


def test_real_annotations_have_their_published_counts(real_data: Path) -> None:
    dataset = open_dataset(real_data / "annotations/shoes/dataset")
    assert dataset.name == "shoes"
    train, val = dataset.split("train"), dataset.split("val")
    assert (len(train.queries), len(train.pictures)) == (8990, 10000)
    assert (len(val.queries), len(val.pictures)) == (1761, 4658)
    assert not set(train.pictures) & set(val.pictures)
    for split in (train, val):
        gallery = set(split.galleries["all"])
        assert all(gallery >= {q.reference, *q.targets} for q in split.queries)
    # one eval pair asks for its own reference, which is removed: nobody can find it
    assert sum(q.reference in q.targets for q in val.queries) == 1
    assert len(dataset.labels) == 3600
    assert set(dataset.labels) <= {*train.pictures, *val.pictures}
