"""What the tests of this room share: drawn garments, a model trained on them, and its graphs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from small_models import RECIPE

from cir_rt.export.checkpoint import Checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.data.garments import write
from cir_rt.export.onnx_export import Parity, export_graphs
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
def real_data() -> Path:
    """The folder of real data that the environment names."""
    folder = os.environ.get("CIR_RT_DATA")
    if not folder:
        pytest.skip("CIR_RT_DATA names no folder of real data")
    return Path(folder)
