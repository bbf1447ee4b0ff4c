"""Hold exported graphs against PyTorch, and look into them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import uses_external_data
from small_models import untrained

from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.errors import BundleError, CheckpointError
from cir_rt.export.checkpoint import Checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.models.storage import load_model
from cir_rt.export.models.systems import CirModel
from cir_rt.export.onnx_export import Parity, export_graphs
from cir_rt.export.onnx_export.folder import compare_role

ROLES = ("image", "text")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs in full precision, of a checkpoint that carries no calibration inputs."""
    folder = tmp_path_factory.mktemp("full")
    parity = export_graphs(untrained(tmp_path_factory.mktemp("untrained")), folder)
    assert all(p.real_inputs is None for p in parity.values())
    return folder


@pytest.fixture(params=["half", "full"])
def folder(request: pytest.FixtureRequest, graphs: Path, full: Path) -> Path:
    return graphs if request.param == "half" else full


def modules(folder: Path) -> CirModel:
    return load_model(open_checkpoint(folder))


@torch.inference_mode()
def difference(folder: Path, role: str, inputs: np.ndarray) -> float:
    engine = OnnxRuntimeEngine(folder / f"{role}.onnx")
    got = engine.run({engine.inputs[0].name: inputs})["vector"]
    wanted = getattr(modules(folder), role)(torch.from_numpy(inputs)).numpy()
    assert got.shape == wanted.shape
    return float(np.abs(got - wanted).max())


@pytest.mark.parametrize("n", [1, 7, 19])
def test_random_pictures(folder: Path, n: int) -> None:
    pixels = np.random.default_rng(n).standard_normal((n, 3, 32, 32), np.float32)
    assert difference(folder, "image", pixels) < 1e-5


@pytest.mark.parametrize("n", [1, 7, 19])
@pytest.mark.parametrize("length", [1, 7, 16])
def test_random_words(folder: Path, n: int, length: int) -> None:
    ids = np.random.default_rng(n).integers(1, 250, (n, length))
    for k in range(1, n):
        ids[k, 1 + k % length :] = 0
    assert difference(folder, "text", ids) < 1e-5


def test_real_pictures_with_real_words(graphs: Path, drawn: Dataset) -> None:
    split, checkpoint = drawn.split("val"), open_checkpoint(graphs)
    pixels = checkpoint.config.preprocess(drawn.paths(split.pictures[:19]))
    assert difference(graphs, "image", pixels) < 1e-5
    ids = checkpoint.tokenizer()([q.text for q in split.queries], truncate=True)
    assert difference(graphs, "text", ids) < 1e-5


def test_the_report_measures_both_kinds_of_input(
    exported: tuple[Path, dict[str, Parity]],
) -> None:
    for parity in exported[1].values():
        assert 0 < parity.random_inputs < 1e-4
        assert parity.real_inputs is not None
        assert 0 < parity.real_inputs < 1e-4


@pytest.mark.parametrize("role", ROLES)
def test_a_graph_holds_no_weights(folder: Path, role: str) -> None:
    path = folder / f"{role}.onnx"
    model = onnx.load(path, load_external_data=False)
    outside = [t for t in model.graph.initializer if uses_external_data(t)]
    inside = [t for t in model.graph.initializer if not uses_external_data(t)]
    assert sum(int(np.prod(t.dims)) for t in inside) < 200
    for tensor in outside:
        facts = {e.key: e.value for e in tensor.external_data}
        assert facts["location"] == "model.safetensors"
    counted = sum(int(np.prod(t.dims)) for t in outside)
    tower = getattr(modules(folder), role)
    stored = [t for k, t in tower.state_dict().items() if not k.endswith("num_batches_tracked")]
    assert counted == sum(t.numel() for t in stored)
    assert path.stat().st_size < 40_000
    assert [o.version for o in model.opset_import if o.domain == ""] == [18]


def test_the_folder_is_a_checkpoint_without_torch_files(graphs: Path, full: Path) -> None:
    names = {p.name for p in graphs.iterdir()}
    assert names == {
        "calibration",
        "config.json",
        "image.onnx",
        "model.safetensors",
        "text.onnx",
        "tokenizer.json",
    }
    assert {p.name for p in full.iterdir()} == names - {"calibration"}
    half, whole = (p.joinpath("model.safetensors").stat().st_size for p in (graphs, full))
    assert half < 0.6 * whole


def test_free_dimensions_are_named(folder: Path) -> None:
    image, text = (OnnxRuntimeEngine(folder / f"{role}.onnx") for role in ROLES)
    assert [(s.name, s.dtype) for s in image.inputs] == [("pixels", "float32")]
    assert isinstance(image.inputs[0].shape[0], str)
    assert image.inputs[0].shape[1:] == (3, 32, 32)
    assert [(s.name, s.dtype) for s in text.inputs] == [("ids", "int64")]
    assert all(isinstance(d, str) for d in text.inputs[0].shape)
    assert [s.name for s in (*image.outputs, *text.outputs)] == ["vector"] * 2


def test_cut_weights_do_not_load(graphs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(graphs, tmp_path / "graphs")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-30_000])
    with pytest.raises(BundleError, match=r"text\.onnx: onnxruntime cannot load it"):
        OnnxRuntimeEngine(folder / "text.onnx")  # its weights stand last in the file


@pytest.mark.parametrize("role", ROLES)
def test_altered_weights_are_found_by_the_comparison(
    graphs: Path, tmp_path: Path, role: str
) -> None:
    folder = shutil.copytree(graphs, tmp_path / "graphs")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-80_000:] = bytes(80_000)
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"differs from PyTorch by .*, the limit is 0\.0001"):
        compare_role(modules(graphs), role, folder / f"{role}.onnx", real=[])


def test_other_systems_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    other = replace(checkpoint, config=replace(checkpoint.config, system="rerank"))
    with pytest.raises(CheckpointError, match=r"a checkpoint of rerank\. Bundles serve prog.*limn"):
        export_graphs(other, tmp_path)
