"""What ranges are taken from, and what the gates ask: never the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir_rt.errors import DataError
from cir_rt.export.build.calibration_set import calibration_set
from cir_rt.export.checkpoint import Checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset


def rows(array: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in array}


def asked(graphs: Checkpoint, folder: Path | None) -> tuple[set[bytes], set[bytes], int]:
    """Return the gate's pictures and captions as the samples hold them, and how many queries."""
    held = calibration_set(graphs, folder)
    references = dict.fromkeys(query.reference for query in held.split.queries)
    pixels = graphs.config.preprocess(held.dataset.paths(references))
    width = held.samples.ids.shape[1]
    tokenizer = graphs.tokenizer()
    texts = [tokenizer([query.text], truncate=True) for query in held.split.queries]
    padded = [
        np.pad(ids, ((0, 0), (0, max(0, width - ids.shape[1]))), constant_values=tokenizer.pad_id)
        for ids in texts
    ]
    found = rows(held.samples.pixels), rows(held.samples.ids)
    assert not rows(pixels) & found[0]
    assert not {ids[0, :width].tobytes() for ids in padded} & found[1]
    return *found, len(held.split.queries)


def test_queries_are_held_back(graphs: Path) -> None:
    pixels, texts, queries = asked(open_checkpoint(graphs), None)
    assert len(pixels) > 100
    assert len(texts) > 20
    assert queries > 50


def test_a_training_and_a_val_split_are_apart(graphs: Path, drawn: Dataset) -> None:
    held = calibration_set(open_checkpoint(graphs), drawn.folder)
    assert held.split.queries == drawn.split("val").queries
    assert held.labelled
    asked(open_checkpoint(graphs), drawn.folder)


def plain(folder: Path, drawn: Dataset, count: int = 24) -> Path:
    folder.mkdir()
    for k, path in enumerate(drawn.paths(drawn.split("val").pictures[:count])):
        shutil.copyfile(path, folder / f"{k}.jpg")
    return folder


def test_a_plain_folder_has_the_checkpoints_captions(
    graphs: Path, drawn: Dataset, tmp_path: Path
) -> None:
    held = calibration_set(open_checkpoint(graphs), plain(tmp_path / "photos", drawn))
    assert not held.labelled
    assert (len(held.split.queries), len(held.samples.pixels)) == (6, 18)
    assert len(held.samples.ids) > 10
    assert all(query.text for query in held.split.queries)
    assert any("18 pictures to calibrate with; 500 or more" in note for note in held.notes())


def test_a_plain_folder_may_bring_its_own(graphs: Path, drawn: Dataset, tmp_path: Path) -> None:
    folder = plain(tmp_path / "photos", drawn)
    (folder / "captions.txt").write_text("in red\n\nlonger sleeves\nin red\nwith dots\n")
    held = calibration_set(open_checkpoint(graphs), folder)
    assert {q.text for q in held.split.queries} <= {"in red", "longer sleeves", "with dots"}


def test_what_cannot_calibrate_is_refused(graphs: Path, tmp_path: Path) -> None:
    model = open_checkpoint(graphs)
    with pytest.raises(DataError, match=r"no calibration inputs.*--calibration DIR"):
        calibration_set(model, tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither a dataset nor a folder of pictures"):
        calibration_set(model, tmp_path)
    rng = np.random.default_rng(0)
    for k in range(12):
        noise = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{k}.png")
    with pytest.raises(DataError, match="the pictures are noise"):
        calibration_set(model, tmp_path)
