"""Hold a re-ranker's graphs against PyTorch, and look into its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rerank_models import untrained_reranker
from small_models import untrained

from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.errors import CheckpointError
from cir_rt.export.build.graphs import reranker_of
from cir_rt.export.checkpoint import Checkpoint, open_checkpoint
from cir_rt.export.models.storage import load_reranker
from cir_rt.export.onnx_export import Parity, export_graphs
from cir_rt.export.onnx_export import folder as folder_module
from cir_rt.export.onnx_export import reranker as module
from cir_rt.inspection import inspect

Exported = tuple[Path, dict[str, Parity]]


@pytest.fixture(scope="module")
def carrying(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Graphs in half precision that carry a re-ranker; nobody trained either."""
    folder = tmp_path_factory.mktemp("carrying")
    towers = untrained(folder / "towers")
    reranker = untrained_reranker(towers, folder / "reranker")
    return folder / "graphs", export_graphs(towers, folder / "graphs", half=True, reranker=reranker)


def test_every_graph_is_held_against_pytorch(carrying: Exported) -> None:
    assert set(carrying[1]) == {"image", "text", "rerank_image", "rerank plain", "rerank absorbed"}
    for parity in carrying[1].values():
        assert 0 < parity.random_inputs < 1e-4
        assert parity.real_inputs is None  # nothing was trained, so nothing was kept


def test_the_folder_is_a_checkpoint_of_its_own(carrying: Exported) -> None:
    found = reranker_of(open_checkpoint(carrying[0]))
    assert found is not None
    assert {p.name for p in found.folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "rerank_image.onnx",
        "tokenizer.json",
    }
    facts = inspect(carrying[0], verify=True)
    assert facts["reranker"]["system"] == "rerank"
    assert facts["reranker"]["graphs"] == ["rerank_image.onnx"]


@pytest.mark.parametrize("n", [1, 7, 19])
def test_pictures_become_the_towers_tokens(carrying: Exported, n: int) -> None:
    found = open_checkpoint(carrying[0] / "reranker")
    pixels = np.random.default_rng(n).standard_normal((n, 3, 32, 32), np.float32)
    got = OnnxRuntimeEngine(found.folder / "rerank_image.onnx").run({"pixels": pixels})["tokens"]
    with torch.inference_mode():
        wanted = load_reranker(found).image.read(torch.from_numpy(pixels)).tokens.numpy()
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_real_inputs_are_held_too(checkpoint: Checkpoint, tmp_path: Path) -> None:
    reranker = untrained_reranker(checkpoint, tmp_path / "reranker", early_layers=0)
    shutil.copytree(checkpoint.folder / "calibration", tmp_path / "graphs/calibration")
    for found in export(reranker, tmp_path / "graphs").values():
        assert found.real_inputs is not None
        assert 0 < found.real_inputs < 1e-4


def test_another_system_is_refused_before_any_work(fresh: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a checkpoint of progressive, expected rerank"):
        export_graphs(fresh, tmp_path / "graphs", reranker=fresh)
    assert not list(tmp_path.iterdir())


def test_a_form_that_strays_leaves_no_graphs(
    fresh: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = untrained_reranker(fresh, tmp_path / "reranker")
    other = load_reranker(untrained_reranker(fresh, tmp_path / "other", seed=9))
    write = module.write_rerank_graphs
    monkeypatch.setattr(
        module, "write_rerank_graphs", lambda model, *args, **named: write(other, *args, **named)
    )
    monkeypatch.setattr(folder_module, "_export_roles", lambda model, stored: {})
    with pytest.raises(CheckpointError, match=r"rerank plain: the graph differs from PyTorch"):
        export_graphs(fresh, tmp_path / "graphs", reranker=reranker)
    assert not list((tmp_path / "graphs").rglob("*.onnx"))


def export(reranker: Checkpoint, out: Path) -> dict[str, Parity]:
    """Export a re-ranker alone."""
    tokenizer = reranker.folder / "tokenizer.json"
    return module.export_reranker(load_reranker(reranker), tokenizer, out, torch.float32)


def test_altered_weights_are_found_out(carrying: Exported, tmp_path: Path) -> None:
    folder = shutil.copytree(carrying[0], tmp_path / "graphs")
    config = json.loads((folder / "reranker/config.json").read_text())
    (folder / "reranker/config.json").write_text(json.dumps({**config, "weights_sha256": "0"}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: altered"):
        reranker_of(open_checkpoint(folder))
