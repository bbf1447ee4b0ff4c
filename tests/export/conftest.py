"""What the tests of this room share: drawn garments, a model trained on them, and its graphs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builds import LOOSE, options
from PIL import Image
from rerank_models import untrained_reranker
from small_models import RECIPE, untrained

from cir_rt.export.build import BuildReport, build_engine
from cir_rt.export.checkpoint import Checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.data.garments import write
from cir_rt.export.models.storage import load_model, load_reranker, save_model
from cir_rt.export.onnx_export import Parity, export_graphs
from cir_rt.export.onnx_export.reranker import export_reranker
from cir_rt.export.train.examples import Examples, read_examples
from cir_rt.export.train.run import train


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from more threads, and sums keep their order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small dataset of drawn garments, in the layout of FashionIQ."""
    folder = tmp_path_factory.mktemp("drawn")
    counts = {"train": 40, "val": 24}
    write(folder, pictures=counts, queries={"train": 60, "val": 20}, seed=5, workers=1)
    return open_dataset(folder)


@pytest.fixture(scope="session")
def checkpoint(drawn: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model trained on the drawn garments for a few seconds."""
    folder = tmp_path_factory.mktemp("checkpoint")
    train(drawn, folder, RECIPE, seed=1)
    return open_checkpoint(folder)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model that nobody trained."""
    return untrained(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def few(drawn: Dataset, fresh: Checkpoint) -> Examples:
    """The validation pictures as training examples: two batches an epoch, or three."""
    return read_examples(drawn, drawn.split("val"), fresh.config.preprocess, fresh.tokenizer())


@pytest.fixture(scope="session")
def exported(
    checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Parity]]:
    """The trained model's graphs in half precision, and how far they are from PyTorch."""
    folder = tmp_path_factory.mktemp("graphs")
    return folder, export_graphs(checkpoint, folder, half=True)


@pytest.fixture(scope="session")
def graphs(exported: tuple[Path, dict[str, Parity]]) -> Path:
    return exported[0]


@pytest.fixture(scope="session")
def reranker(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A re-ranker that nobody trained, over the trained image tower."""
    return untrained_reranker(checkpoint, tmp_path_factory.mktemp("reranker"))


@pytest.fixture(scope="session")
def carrying(graphs: Path, reranker: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs that carry the re-ranker."""
    folder = shutil.copytree(graphs, tmp_path_factory.mktemp("carrying") / "graphs")
    tokenizer = reranker.folder / "tokenizer.json"
    export_reranker(load_reranker(reranker), tokenizer, folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that the environment names."""
    folder = os.environ.get("CIR_RT_DATA")
    if not folder:
        pytest.skip("CIR_RT_DATA names no folder of real data")
    return Path(folder)


@pytest.fixture(scope="session")
def built(
    graphs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, BuildReport]]:
    """A bundle of either precision."""
    out = tmp_path_factory.mktemp("bundles")
    settings = {"max_recall_drop": LOOSE, "keep_slower": True}
    return {
        name: (out / name, build_engine(graphs, out / name, options(name, **settings)))
        for name in ("fp32", "int8")
    }


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs of a model that listens to pictures alone; every target is its reference's twin.

    Nobody trained it, yet recall is full until an engine is damaged.
    """
    folder = tmp_path_factory.mktemp("untrained")
    untrained(folder, seed=3)
    model = load_model(open_checkpoint(folder))
    with torch.no_grad():
        model.compose.gate.weight.zero_()
        model.compose.gate.bias.copy_(torch.tensor([9.0, -9.0]))
    save_model(model, folder / "tokenizer.json", folder)
    images = folder / "calibration/images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines, ids = [], []
    for k in range(24):
        coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        blobs = Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC)
        for name, light in (("a", 1.0), ("b", 0.97)):
            blobs.point(lambda x, s=light: int(x * s)).save(images / f"{k}{name}.png")
            ids.append(f"{k}{name}")
        caption = f"{('in red', 'with dots', 'is longer')[k % 3]} {k}"
        lines.append(json.dumps({"reference": f"{k}a", "caption": caption, "targets": [f"{k}b"]}))
    (folder / "calibration/calibration.jsonl").write_text("\n".join(lines))
    (folder / "calibration/gallery.calibration.txt").write_text("\n".join(ids))
    out = tmp_path_factory.mktemp("twins")
    export_graphs(open_checkpoint(folder), out, half=True)
    return out
