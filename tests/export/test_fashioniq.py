"""Read FashionIQ's layout: made folders, the drawn garments, and the real annotations."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.data.garments.attributes import ARTICLES
from cir_rt.export.train.examples import read_examples, texts_of
from cir_rt.preprocess import Preprocess
from cir_rt.text import Tokenizer


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def entry(reference: str, target: str, *captions: str) -> dict[str, Any]:
    return {"candidate": reference, "target": target, "captions": list(captions)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    queries = {
        "dress": [entry("a", "b", "is red.", " has dots"), entry("c", "b", "longer", "darker")],
        "shirt": [entry("x", "y", "is red", "is plain")],
    }
    images = {"dress": ["a", "b", "c", "d", "a"], "shirt": ["w", "x", "y", "z"]}
    for category, entries in queries.items():
        dump(tmp_path / f"captions/cap.{category}.val.json", entries)
        dump(tmp_path / f"image_splits/split.{category}.val.json", images[category])
    return tmp_path


def test_a_made_folder_is_read(folder: Path) -> None:
    dataset = open_dataset(folder)
    split = dataset.split("val")
    assert (dataset.name, split.name, split.protocol.name) == ("fashioniq", "val", "original")
    assert [(q.reference, q.targets, q.group) for q in split.queries] == [
        ("a", ("b",), "dress"),
        ("c", ("b",), "dress"),
        ("x", ("y",), "shirt"),
    ]
    assert split.queries[0].captions == ("is red.", " has dots")
    assert split.queries[0].text == "is red and has dots"
    assert split.galleries == {"dress": ("a", "b", "c", "d"), "shirt": ("w", "x", "y", "z")}
    assert split.pictures == ("a", "b", "c", "d", "w", "x", "y", "z")
    assert dataset.labels == {}


def test_the_val_split_ranks_used_pictures_alone(folder: Path) -> None:
    split = open_dataset(folder).split("val", "val-split")
    assert split.galleries == {"dress": ("a", "b", "c"), "shirt": ("x", "y")}
    assert len(split.queries) == 3
    assert "val-split" in str(split.protocol)


def test_unknown_splits_and_protocols_are_named(folder: Path) -> None:
    dataset = open_dataset(folder)
    with pytest.raises(DataError, match=r"no split 'test'\. It has: val\."):
        dataset.split("test")
    with pytest.raises(DataError, match=r"'mixed'\. It has: original, original-e.*, val-split"):
        dataset.split("val", "mixed")


def test_the_protocols_differ_by_gallery_and_reference(folder: Path) -> None:
    """Galleries "original" and "val-split", reference kept or removed, are four protocols."""
    dataset = open_dataset(folder)
    facts = {
        name: (split.protocol.keep_reference, sum(map(len, split.galleries.values())))
        for name, split in dataset.splits["val"].items()
    }
    assert facts == {
        "original": (True, 8),
        "original-excluded": (False, 8),
        "val-split": (True, 5),
        "val-split-excluded": (False, 5),
    }
    told = str(dataset.split("val", "val-split-excluded").protocol)
    assert "per category; reference removed" in told
    assert '"a and b"' in told


def test_a_split_without_targets_can_be_ranked_alone(folder: Path) -> None:
    """The galleries of used pictures need targets, so that they are not offered."""
    dump(folder / "captions/cap.dress.test.json", [{"candidate": "a", "captions": ["x", "y"]}])
    dump(folder / "image_splits/split.dress.test.json", ["a", "b"])
    dataset = open_dataset(folder)
    assert set(dataset.splits) == {"test", "val"}
    assert list(dataset.splits["test"]) == ["original", "original-excluded"]
    split = dataset.split("test")
    assert not split.labelled
    assert dataset.split("val").labelled
    assert split.queries[0].targets == ()
    assert split.pictures == ("a", "b")


def test_a_split_that_is_labelled_in_part_is_refused(folder: Path) -> None:
    dump(folder / "captions/cap.shirt.val.json", [{"candidate": "x", "captions": ["x", "y"]}])
    with pytest.raises(DataError, match="some captions of val have targets"):
        open_dataset(folder)


def test_pictures_that_no_query_shows_are_unlabelled(folder: Path) -> None:
    assert open_dataset(folder).unlabelled("val") == ("d", "w", "z")


def test_missing_pictures_are_listed_at_once(folder: Path) -> None:
    dataset = open_dataset(folder)
    (folder / "images/deep").mkdir(parents=True)
    for name in ("a.jpg", "b.PNG", "deep/e.jpeg", "c.txt"):
        (folder / "images" / name).touch()
    with pytest.raises(DataError, match=r"^2 of 3 pictures are missing below .*images: c, d$"):
        dataset.paths(["a", "d", "c", "d"])
    found = dataset.paths(["b", "deep/e", "a", "b"])
    names = [path.relative_to(folder / "images").as_posix() for path in found]
    assert names == ["b.PNG", "deep/e.jpeg", "a.jpg", "b.PNG"]
    with pytest.raises(DataError, match=r"^12 of 12 .*, m09, …$"):
        dataset.paths(f"m{k:02d}" for k in range(12))


@pytest.mark.parametrize("broken", ["{", "\xff"])
def test_a_broken_file_is_named(folder: Path, broken: str) -> None:
    (folder / "captions/cap.shirt.val.json").write_bytes(broken.encode("latin-1"))
    with pytest.raises(DataError, match=r"cap\.shirt\.val\.json: not readable as JSON"):
        open_dataset(folder)


def test_a_missing_gallery_is_named(folder: Path) -> None:
    (folder / "image_splits/split.dress.val.json").unlink()
    with pytest.raises(DataError, match=r"split\.dress\.val\.json"):
        open_dataset(folder)


@pytest.mark.parametrize("key", ["candidate", "target", "captions"])
def test_a_lacking_key_is_named(folder: Path, key: str) -> None:
    entries = [entry("a", "b", "x", "y"), entry("c", "b", "x", "y")]
    del entries[1][key]
    dump(folder / "captions/cap.dress.val.json", entries)
    with pytest.raises(DataError, match=r"cap\.dress\.val\.json: expected candidate, target"):
        open_dataset(folder)


def test_a_caption_that_is_no_list_is_refused(folder: Path) -> None:
    wrong = {"candidate": "a", "target": "b", "captions": "is red"}
    dump(folder / "captions/cap.dress.val.json", [wrong])
    with pytest.raises(DataError, match=r"cap\.dress\.val\.json"):
        open_dataset(folder)


def test_empty_captions_say_nothing(folder: Path, checkpoint_tokenizer: Tokenizer) -> None:
    """The published captions hold some that are empty, or a full stop."""
    dump(
        folder / "captions/cap.dress.val.json",
        [entry("a", "b", "", "is red"), entry("a", "b", "is blue", ".")],
    )
    dataset = open_dataset(folder)
    split = dataset.split("val")
    assert [q.text for q in split.queries[:2]] == ["is red", "is blue"]
    checkpoint_tokenizer(texts_of(dataset, split))


@pytest.fixture
def checkpoint_tokenizer(checkpoint: Any) -> Tokenizer:
    return checkpoint.tokenizer()


def test_the_drawn_garments_pass_through_this_reader(drawn: Dataset) -> None:
    train, val = drawn.split("train"), drawn.split("val")
    groups = list(val.galleries)
    assert groups == sorted(ARTICLES)
    assert {len(val.galleries[g]) for g in groups} == {24}
    assert {len(train.galleries[g]) for g in groups} == {40}
    assert len(train.queries) == 60 * len(ARTICLES)
    assert len(val.queries) == 20 * len(ARTICLES)
    assert not set(train.pictures) & set(val.pictures)
    assert all(path.exists() for path in drawn.paths(val.pictures))
    attributes, title = drawn.labels[val.pictures[0]]
    assert attributes.split()[0] == val.pictures[0].split("-")[0]
    assert title.lower().split()[0] in attributes


def test_another_layout_beside_it_is_not_taken(drawn: Dataset, tmp_path: Path) -> None:
    shutil.copytree(drawn.folder / "captions", tmp_path / "captions")
    shutil.copytree(drawn.folder / "image_splits", tmp_path / "image_splits")
    (tmp_path / "gallery.val.txt").write_text("a\n")
    assert open_dataset(tmp_path).name == "fashioniq"


def test_real_annotations_have_their_published_counts(real_data: Path) -> None:
    folder = real_data / "annotations/fashioniq"
    dataset = open_dataset(folder)
    assert list(dataset.splits) == ["test", "train", "val"]
    assert not dataset.split("test").labelled
    assert len(dataset.split("test").queries) == 6118
    original, used = dataset.split("val"), dataset.split("val", "val-split")
    assert len(original.queries) == len(used.queries) == 6016
    assert _sizes(original.galleries) == {"dress": 3817, "shirt": 6346, "toptee": 5373}
    assert _sizes(used.galleries) == {"dress": 2628, "shirt": 3089, "toptee": 2902}
    train = dataset.split("train")
    counts = Counter(query.group for query in train.queries)
    assert counts == {"dress": 5985, "shirt": 5988, "toptee": 6027}
    assert _sizes(train.galleries) == {"dress": 11452, "shirt": 19036, "toptee": 16121}
    for query in original.queries:
        gallery = set(used.galleries[query.group])
        assert {query.reference, *query.targets} <= gallery
        assert len(query.captions) == 2
    with pytest.raises(DataError, match="pictures are missing"):
        dataset.paths(original.pictures)


def _sizes(galleries: Any) -> dict[str, int]:
    return {group: len(ids) for group, ids in galleries.items()}


def test_real_captions_can_be_trained_on(real_data: Path, checkpoint_tokenizer: Tokenizer) -> None:
    dataset = open_dataset(real_data / "annotations/fashioniq")
    ids = checkpoint_tokenizer(texts_of(dataset, dataset.split("train")), truncate=True)
    assert len(ids) > 18000


def test_training_names_missing_pictures(folder: Path, checkpoint_tokenizer: Tokenizer) -> None:
    dataset = open_dataset(folder)
    with pytest.raises(DataError, match="5 of 5 pictures are missing"):
        read_examples(dataset, dataset.split("val"), Preprocess(size=8), checkpoint_tokenizer)
