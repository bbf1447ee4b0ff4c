"""What self-training may mine: training pictures that no other split ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.data.pool import mining_pool


def line(reference: str, target: str) -> str:
    return json.dumps({"reference": reference, "caption": "in red", "targets": [target]})


def test_pictures_that_another_split_ranks_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(line("a", "b"))
    (tmp_path / "gallery.train.txt").write_text("c\na\nb\nx\n")
    (tmp_path / "unlabelled.train.txt").write_text("d\na\ny\nr\n")
    (tmp_path / "val.jsonl").write_text(line("r", "x"))
    (tmp_path / "gallery.val.txt").write_text("x\ny\n")
    assert mining_pool(open_dataset(tmp_path)) == {"all": ("c", "a", "b", "d")}


def test_a_pool_needs_training_pictures(tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_text(line("a", "b"))
    with pytest.raises(DataError, match="no split 'train'"):
        mining_pool(open_dataset(tmp_path))


def test_drawn_garments_are_mined_by_article(drawn: Dataset) -> None:
    galleries = drawn.split("train").galleries
    assert mining_pool(drawn) == dict(galleries)  # its splits share no picture


def test_real_lists_overlap_between_categories(real_data: Path) -> None:
    """811 pictures of a category's train list stand in another's val list, 803 in a test list."""
    dataset = open_dataset(real_data / "annotations/fashioniq")
    pool, train = mining_pool(dataset), dataset.split("train")
    dropped = {i for g, ids in train.galleries.items() for i in set(ids) - set(pool[g])}
    ranked = {name: set(dataset.split(name).pictures) for name in ("val", "test")}
    assert len(dropped & ranked["val"]) == 811
    assert len(dropped & ranked["test"]) == 803
    assert len(dropped) == 1614
    assert {group: len(ids) for group, ids in pool.items()} == {
        "dress": 11452,
        "shirt": 18251,
        "toptee": 15292,
    }
    # a list is at odds with another category's alone
    assert all(not set(train.galleries[g]) & set(dataset.split("val").galleries[g]) for g in pool)
