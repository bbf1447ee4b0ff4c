"""The graphs folder: what a device builds its engines from, without torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import CALIBRATION, TOKENIZER, WEIGHTS, Checkpoint
from cir_rt.export.models.storage import load_model, load_reranker, save_model
from cir_rt.export.models.systems import CirModel
from cir_rt.export.onnx_export.graph import FACES, random_ids, random_pixels, write_graph
from cir_rt.export.onnx_export.parity import Parity, compare, real_samples
from cir_rt.export.onnx_export.reranker import export_reranker

ROLES = ("image", "text")


def export_graphs(
    checkpoint: Checkpoint, out: Path, *, half: bool = False, reranker: Checkpoint | None = None
) -> dict[str, Parity]:
    """Write the graphs folder and hold each graph against PyTorch; return the differences.

    `half` stores the weights in FP16; `reranker` is a checkpoint of the recipe rerank, which may
    have towers of its own. Raises CheckpointError for a system that no bundle serves yet, and where
    a graph strays from PyTorch by more than 1e-4 on any input.
    """
    if checkpoint.config.system != "progressive":
        raise CheckpointError(
            f"{checkpoint.folder}: a checkpoint of {checkpoint.config.system}. Bundles serve the "
            "progressive system alone so far; others can be trained and evaluated."
        )
    model, second = load_model(checkpoint), load_reranker(reranker) if reranker else None
    out.mkdir(parents=True, exist_ok=True)
    _copy_calibration(checkpoint.folder, out)
    dtype = torch.float16 if half else torch.float32
    save_model(model, checkpoint.folder / TOKENIZER, out, dtype)
    stored = Checkpoint(folder=out, config=checkpoint.config)
    try:
        parity = _export_towers(load_model(stored), stored)  # weights rounded as on disk
        if reranker and second:
            parity |= export_reranker(second, reranker.folder / TOKENIZER, out, dtype)
    except CheckpointError:
        for graph in out.rglob("*.onnx"):
            graph.unlink()
        raise
    return parity


def _export_towers(model: CirModel, stored: Checkpoint) -> dict[str, Parity]:
    samples = real_samples(stored, stored.folder)
    parity = {}
    for role in ROLES:
        path = stored.folder / f"{role}.onnx"
        example = _random(model, role, 2, length=7, seed=0)
        tower = getattr(model, role)
        write_graph(role, tower, example, path, stored.folder / WEIGHTS, prefix=f"{role}.")
        feeds = samples.feeds(role) if samples else []
        real = [torch.from_numpy(x) for feed in feeds for x in feed.values()]
        parity[role] = compare_tower(model, role, path, real)
    return parity


def compare_tower(model: CirModel, role: str, path: Path, real: list[Tensor]) -> Parity:
    """Hold a tower's graph against the model, on random inputs and on real ones."""
    engine, tower, face = OnnxRuntimeEngine(path), getattr(model, role), FACES[role]

    @torch.inference_mode()
    def module(inputs: Tensor) -> np.ndarray:
        return tower(inputs).numpy()

    def graph(inputs: Tensor) -> np.ndarray:
        return engine.run({face.input: inputs.numpy()})[face.output]

    random = _random(model, role, 5, length=model.config.context, seed=1)
    return compare(role, graph, module, random=[random], real=real)


def _random(model: CirModel, role: str, n: int, *, length: int, seed: int) -> Tensor:
    if role == "image":
        return random_pixels(model, n, seed)
    return random_ids(model, n, length, seed)


def _copy_calibration(source: Path, out: Path) -> None:
    if (source / CALIBRATION).exists() and source.resolve() != out.resolve():
        shutil.copytree(source / CALIBRATION, out / CALIBRATION, dirs_exist_ok=True)
