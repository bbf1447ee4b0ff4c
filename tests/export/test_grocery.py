"""Read the Grocery layout: a made folder, and the real photos."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cir_rt.errors import DataError
from cir_rt.export.data.formats import open_dataset

HEADER = (
    "Class Name (str)",
    "Class ID (int)",
    "Coarse Class Name (str)",
    "Coarse Class ID (int)",
    "Iconic Image Path (str)",
    "Product Description Path (str)",
)


def line(reference: str, caption: str, target: int) -> str:
    return json.dumps({"reference": reference, "caption": caption, "target_class": target})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "dataset"
    (root / "iconic").mkdir(parents=True)
    kinds = [("Green-Apple", 0), ("Red-Apple", 0), ("Pink-Lady", 0), ("Leek", 1)]
    rows = []
    for k, (name, coarse) in enumerate(kinds):
        (root / f"iconic/{name}.txt").write_text(f"{name} tastes well.\n")
        rows.append([name, k, "x", coarse, f"/iconic/{name}_Iconic.jpg", f"/iconic/{name}.txt"])
    with (root / "classes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    photos = [("g1", 0, 0), ("r1", 1, 0), ("r2", 1, 0), ("l1", 3, 1)]
    text = "".join(f"val/{name}.jpg, {kind}, {coarse}\n" for name, kind, coarse in photos)
    (root / "val.txt").write_text(text)
    (tmp_path / "val.jsonl").write_text(line("val/g1.jpg", "red apple instead of green apple", 1))
    return tmp_path


def test_every_photo_of_the_class_is_a_right_answer(folder: Path) -> None:
    dataset = open_dataset(folder)
    split = dataset.split("val")
    (query,) = split.queries
    assert (dataset.name, query.reference) == ("grocery", "val/g1")
    assert query.targets == ("val/r1", "val/r2")
    assert split.galleries == {"all": ("val/g1", "val/r1", "val/r2", "val/l1")}
    assert split.protocol.precision_ks == (10,)
    assert split.protocol.mean_of == ("mAP@10",)
    assert split.protocol.keep_reference is False
    assert dataset.products["val/r1"] == dataset.products["iconic/Red-Apple_Iconic"]


def test_the_catalogue_is_the_training_split(folder: Path) -> None:
    dataset = open_dataset(folder)
    split = dataset.split("train")
    assert len(split.queries) == 6  # three apples ask for each other, the leek for nothing
    query = split.queries[0]
    assert (query.reference, *query.targets) == (
        "iconic/Green-Apple_Iconic",
        "iconic/Red-Apple_Iconic",
    )
    assert query.text == "red apple instead of green apple"
    assert dataset.labels[query.reference] == ("green apple", "Green-Apple tastes well.")
    assert not set(split.pictures) & set(dataset.split("val").pictures)
    assert not set(dataset.labels) & set(dataset.split("val").pictures)


def test_training_queries_of_ones_own_take_its_place(folder: Path) -> None:
    (folder / "dataset/train.txt").write_text("train/p1.jpg, 2, 0\ntrain/p2.jpg, 0, 0\n")
    (folder / "train.jsonl").write_text(line("train/p2.jpg", "pink lady instead", 2))
    (query,) = open_dataset(folder).split("train").queries
    assert (query.reference, query.targets) == ("train/p2", ("train/p1",))


def test_what_is_missing_or_malformed_is_named(folder: Path) -> None:
    good = line("val/g1.jpg", "red apple", 1)
    (folder / "val.jsonl").write_text(f"{good}\n{line('val/g1.jpg', 'pink lady', 2)}")
    with pytest.raises(DataError, match=r"val\.jsonl:2: no photo shows class 2"):
        open_dataset(folder)
    (folder / "val.jsonl").write_text(f"{good}\n{{}}")
    with pytest.raises(DataError, match=r"val\.jsonl:2: expected reference, caption"):
        open_dataset(folder)
    (folder / "dataset/val.txt").write_text("val/g1.jpg, 0, 0\nval/g2.jpg, 9, 0\n")
    with pytest.raises(DataError, match=r"val\.txt:2: expected file, class, coarse class"):
        open_dataset(folder)
    (folder / "dataset/val.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt: not there"):
        open_dataset(folder)
    (folder / "dataset/iconic/Leek.txt").unlink()
    with pytest.raises(DataError, match=r"classes\.csv: expected the published columns"):
        open_dataset(folder)


def test_the_real_photos(real_data: Path) -> None:
    folder = real_data / "grocery"
    dataset = open_dataset(folder)
    val, train = dataset.split("val"), dataset.split("train")
    assert (len(val.queries), len(val.pictures)) == (493, 296)
    assert (len(train.queries), len(train.pictures)) == (218, 81)
    lines = (folder / "val.jsonl").read_text(encoding="utf-8").splitlines()
    for query, text in zip(val.queries, lines, strict=True):
        assert len(query.targets) == json.loads(text)["n_targets"]
        assert query.reference not in query.targets
    assert len(dataset.paths([*val.pictures, *train.pictures])) == 377
    assert {dataset.products[i] for i in val.pictures} <= set(dataset.products.values())
