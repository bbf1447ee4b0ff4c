"""Check the calibration inputs that travel with a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir_rt.errors import DataError
from cir_rt.export import samples
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.samples import read_samples, write_samples


def written(drawn: Dataset, folder: Path, seed: int = 0) -> Dataset:
    write_samples(drawn, drawn.split("train"), folder, side=40, seed=seed)
    return open_dataset(folder)


def test_queries_are_whole(drawn: Dataset, tmp_path: Path) -> None:
    dataset = written(drawn, tmp_path)
    (split,) = (dataset.split(name) for name in dataset.splits)
    train = drawn.split("train")
    used = {i for q in train.queries for i in (q.reference, *q.targets)}
    assert len(split.queries) == len(train.queries)
    assert len(split.pictures) == len(used)
    assert set(split.galleries["all"]) == set(split.pictures)
    assert [q.text for q in split.queries] == [q.text for q in train.queries]
    for path in dataset.paths(split.pictures):
        with Image.open(path) as picture:
            assert max(picture.size) == 40


def test_pictures_stay_with_their_queries(drawn: Dataset, tmp_path: Path) -> None:
    dataset = written(drawn, tmp_path)
    small = dataset.split("calibration").queries
    for k in (0, 59, 200):
        asked, copied = drawn.split("train").queries[k], small[k]
        pairs = ((asked.reference, copied.reference), (asked.targets[0], copied.targets[0]))
        for old, new in pairs:
            with Image.open(drawn.paths([old])[0]) as a, Image.open(dataset.paths([new])[0]) as b:
                shrunk = np.asarray(a.resize(b.size, Image.Resampling.LANCZOS), float)
                assert np.abs(shrunk - np.asarray(b, float)).mean() < 5


def test_the_limit_holds(drawn: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "WRITTEN", 19)
    split = written(drawn, tmp_path).split("calibration")
    assert 15 < len(split.pictures) <= 19
    assert len(split.queries) >= 9
    assert {q.reference for q in split.queries} <= set(split.pictures)
    assert {t for q in split.queries for t in q.targets} <= set(split.pictures)


def test_the_seed_fixes_the_choice(
    drawn: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "WRITTEN", 19)
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        written(drawn, tmp_path / name, seed)
        texts.append((tmp_path / name / "calibration.jsonl").read_bytes())
    assert texts[0] == texts[1] != texts[2]


def test_writing_again_replaces_what_was_there(drawn: Dataset, tmp_path: Path) -> None:
    written(drawn, tmp_path)
    (tmp_path / "images/old.jpg").touch()
    written(drawn, tmp_path)
    assert not (tmp_path / "images/old.jpg").exists()


def test_somebody_elses_folder_is_not_replaced(drawn: Dataset, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("kept")
    with pytest.raises(DataError, match="not written by training"):
        written(drawn, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_reading_spreads_over_the_split(drawn: Dataset, checkpoint: Checkpoint, limit: int) -> None:
    preprocess, words = checkpoint.config.preprocess, checkpoint.tokenizer()
    read = read_samples(drawn, preprocess, words, limit=limit)
    assert (len(read.pixels), len(read.ids)) == (limit, limit)
    assert read.pixels.dtype == np.float32
    assert len({row.tobytes() for row in read.ids}) == limit


def test_reading_does_not_stop_at_the_first_pictures(
    drawn: Dataset, checkpoint: Checkpoint
) -> None:
    """Just under two times the limit: the last pictures count as much as the first."""
    split = drawn.split("train")
    limit = len(split.pictures) // 2 + 1
    read = read_samples(drawn, checkpoint.config.preprocess, checkpoint.tokenizer(), limit=limit)
    last = checkpoint.config.preprocess(drawn.paths(split.pictures[-limit // 2 :]))
    shown = {row.tobytes() for row in read.pixels}
    assert shown & {row.tobytes() for row in last}


def test_a_query_with_hundreds_of_answers_is_written_with_some(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    ids = [f"{k:03d}" for k in range(800)]
    first = images / f"{ids[0]}.png"
    Image.new("RGB", (4, 4), "red").save(first)
    for name in ids[1:]:
        (images / f"{name}.png").symlink_to(first)
    line = {"reference": ids[0], "caption": "in red", "targets": ids[1:]}
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    dataset = open_dataset(tmp_path)
    write_samples(dataset, dataset.split("train"), tmp_path / "samples", side=4, seed=0)
    (query,) = open_dataset(tmp_path / "samples").split("calibration").queries
    assert len(query.targets) == 16
