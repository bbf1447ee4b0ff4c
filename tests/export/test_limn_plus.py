"""LIMN+ on drawn garments: LIMN, a captioner and LIMN again, with the trainer's own models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_models import small

from cir_rt.errors import DataError
from cir_rt.export.checkpoint import open_checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.evaluate import evaluate
from cir_rt.export.models.encoder import TorchEncoder, open_encoder
from cir_rt.export.train.limn_plus import ROUNDS, pool_of, train_limn_plus
from cir_rt.export.train.recipes import LimnPlus

PLUS = small(
    LimnPlus,
    learning_rate=1e-3,
    composer={"factors": 3, "width": 32, "token_width": 24, "match_width": 16, "dropout": 0.0},
    self_training={
        "rounds": 1,
        "mining": {"neighbours": 2, "duplicate": 0.9999},
        "filtering": {"rank": 3},
    },
    captioner={"width": 32, "layers": 1},
    captioning={"epochs": 20, "captions": 64, "learning_rate": 4e-3},
)


@pytest.fixture(scope="module")
def trained(drawn: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plus")
    train_limn_plus(drawn, out, PLUS, epochs=3, seed=4)
    return out


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_round_writes_captions_and_keeps_what_is_found(drawn: Dataset, trained: Path) -> None:
    pool, folder = pool_of(drawn), trained / ROUNDS
    labelled = {(t.reference, t.target) for t in pool.labelled}
    group = dict(zip(pool.ids, pool.groups or (), strict=True))
    pairs = {(str(p["reference"]), str(p["target"])) for p in lines(folder / "pairs.jsonl")}
    assert pairs
    assert not pairs & labelled
    assert all(group[a] == group[b] for a, b in pairs)
    captioned = lines(folder / "round-1/captions.jsonl")
    kept = lines(folder / "round-1/kept.jsonl")
    assert 0 < len(kept) <= len(captioned) <= len(pairs)
    spoken = {word for t in pool.labelled for word in t.caption.lower().split()}
    words = [word for line in captioned for word in str(line["caption"]).split()]
    assert sum(word in spoken for word in words) > 0.5 * len(words)


def test_the_last_limn_is_left(drawn: Dataset, trained: Path) -> None:
    last = open_checkpoint(trained / ROUNDS / "round-1/limn")
    assert open_checkpoint(trained).config == last.config
    first = open_checkpoint(trained / ROUNDS / "round-0/limn")
    assert first.config.weights_sha256 != last.config.weights_sha256
    encoder = open_encoder(open_checkpoint(trained))
    assert isinstance(encoder, TorchEncoder)
    split = drawn.split("val")
    vectors = encoder.encode_pictures(drawn.paths(split.pictures[:7]))
    assert vectors.shape == (7, 24 + 3 * 16)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert evaluate(encoder, drawn, split).recall["R@50"] > 0


def test_an_interrupted_round_ends_the_same(drawn: Dataset, trained: Path, tmp_path: Path) -> None:
    out = shutil.copytree(trained, tmp_path / "again")
    shutil.rmtree(out / ROUNDS / "round-1/limn")
    for name in ("captions.jsonl", "kept.jsonl"):
        (out / ROUNDS / "round-1" / name).unlink()
    train_limn_plus(drawn, out, PLUS, epochs=3, seed=4, resume=True)
    for name in ("round-1/captions.jsonl", "round-1/kept.jsonl", "round-1/limn/model.safetensors"):
        assert (out / ROUNDS / name).read_bytes() == (trained / ROUNDS / name).read_bytes(), name
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_without_training_pictures_there_is_nothing_to_mine(drawn: Dataset, tmp_path: Path) -> None:
    splits = {"train": drawn.splits["val"], "val": drawn.splits["val"]}
    with pytest.raises(DataError, match="may be mined"):
        train_limn_plus(replace(drawn, splits=splits), tmp_path, PLUS, epochs=1)


def test_a_validated_run_reports_its_last_score(drawn: Dataset, tmp_path: Path) -> None:
    result = train_limn_plus(drawn, tmp_path, replace(PLUS, validate=1), epochs=1, seed=4)
    assert result.score == pytest.approx(
        evaluate(open_encoder(open_checkpoint(tmp_path)), drawn, drawn.split("val")).mean
    )
    captioner = json.loads((tmp_path / ROUNDS / "round-1/captioner/captioner.json").read_text())
    assert captioner["longest"] == PLUS.context
