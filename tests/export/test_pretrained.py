"""The model that ships with cir-rt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cir_rt.bundle import open_bundle
from cir_rt.encoder import Encoder
from cir_rt.export.build import BuildOptions, build_engine
from cir_rt.export.checkpoint import CALIBRATION, RERANKER, open_checkpoint
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.data.garments import write
from cir_rt.export.demo import LOCATION, tour
from cir_rt.export.evaluate import ask, evaluate, report
from cir_rt.export.rerank import reranked
from cir_rt.export.runtime_scorer import RuntimeScorer

MAX_BYTES = 12_000_000
MAX_PARAMETERS = 2_000_000


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("shipped") / "shipped.cir"
    build_engine(LOCATION, bundle, BuildOptions())
    return bundle


def test_it_is_small() -> None:
    files = [p for p in LOCATION.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert sum(p.stat().st_size for p in files) <= MAX_BYTES


def test_its_re_ranker_reads_pictures_as_it_does() -> None:
    base, second = (load_file(open_checkpoint(f).weights) for f in (LOCATION, LOCATION / RERANKER))
    towers = [{k: v for k, v in of.items() if k.startswith("image.")} for of in (base, second)]
    assert towers[0].keys() == towers[1].keys() != set()
    assert all(np.array_equal(towers[0][k], towers[1][k]) for k in towers[0])


def test_each_tower_is_small_and_half_precision() -> None:
    from safetensors import safe_open

    sizes = {"image": 0, "text": 0}
    with safe_open(open_checkpoint(LOCATION).weights, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118  not a mapping
            tensor = file.get_tensor(name)
            assert tensor.dtype == "float16"
            tower = name.split(".")[0]
            sizes[tower] = sizes.get(tower, 0) + tensor.size
    assert 0 < sizes["image"] <= MAX_PARAMETERS
    assert 0 < sizes["text"] <= MAX_PARAMETERS


def test_its_calibration_pictures_are_drawn_ones() -> None:
    names = sorted(p.name for p in (LOCATION / CALIBRATION / "images").iterdir())
    assert len(names) >= 500
    assert names == [f"{k:04d}.jpg" for k in range(len(names))]


def test_it_answers_on_pictures_it_never_saw(shipped: Path, tmp_path: Path) -> None:
    write(tmp_path, pictures={"test": 60}, queries={"test": 30}, seed=7, workers=1)
    dataset = open_dataset(tmp_path)
    split = dataset.split("test")
    encoder = Encoder.open(open_bundle(shipped))
    both, picture, words = (
        evaluate(encoder, dataset, split, weight=w).recall["R@1"] for w in (None, 1.0, 0.0)
    )
    assert both > 2 * max(picture, words)
    scorer = RuntimeScorer.open(open_bundle(shipped))
    scored = reranked(ask(encoder, dataset, split), scorer, dataset, split, 50)
    assert scorer.reranker.settings.prune_weight == 0  # the re-ranker stands alone
    assert report(scored, dataset.name, split).recall["R@1"] > 2 * max(picture, words)


def test_the_quantized_engines_keep_its_recall(shipped: Path) -> None:
    quality = open_bundle(shipped).manifest.quality
    before, after = quality["recall_before"], quality["recall_after"]
    assert all(before[k] - after[k] <= 0.5 for k in before)
    assert quality["cosine_min"] >= 0.98


def test_the_tour_leaves_pictures_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cir_rt.export.demo.PICTURES", 24)
    monkeypatch.setattr("cir_rt.export.demo.QUERIES", 12)
    result = tour(tmp_path)
    assert result.pictures == 6 * 24
    figures = json.loads(json.dumps(result.to_json()))
    assert figures["queries"] == 6 * 12
    assert len(figures["recall"]) == 5  # FP32, three ways to ask, the first of them re-ranked
    assert {"rerank", "total"} <= set(figures["stages"])
    assert "total" in figures["stages_pruned"]
    assert "rerank" not in figures["stages_pruned"]
    for name in ("contact-sheet.png", "latency.png", "garments.cir", "garments.gallery"):
        assert (tmp_path / name).exists()
    assert tour(tmp_path).index.unchanged == 6 * 24
