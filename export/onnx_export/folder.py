"""The graphs folder: what a device builds its engines from, without torch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cir_rt.calibration.samples import BATCH, Samples
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import CALIBRATION, ENGINES, TOKENIZER, WEIGHTS, Checkpoint
from cir_rt.export.models.storage import load_model, load_reranker, save_model
from cir_rt.export.models.systems import ComposedModel
from cir_rt.export.onnx_export.graph import (
    FACES,
    ComposedPictures,
    ComposedQueries,
    ComposedWords,
    random_ids,
    random_pixels,
    write_graph,
)
from cir_rt.export.onnx_export.parity import Parity, compare, real_samples
from cir_rt.export.onnx_export.reranker import export_reranker


def export_graphs(
    checkpoint: Checkpoint, out: Path, *, half: bool = False, reranker: Checkpoint | None = None
) -> dict[str, Parity]:
    """Write the graphs folder and hold each graph against PyTorch; return the differences.

    `half` stores the weights in FP16; `reranker` is a checkpoint of the recipe rerank, which may
    have towers of its own. Raises CheckpointError for a system that no bundle serves yet, and where
    a graph strays from PyTorch by more than 1e-4 on any input.
    """
    if checkpoint.config.system not in ENGINES:
        raise CheckpointError(
            f"{checkpoint.folder}: a checkpoint of {checkpoint.config.system}. Bundles serve "
            f"{' and '.join(ENGINES)}; a re-ranker goes beside one:  --reranker CKPT"
        )
    model, second = load_model(checkpoint), load_reranker(reranker) if reranker else None
    out.mkdir(parents=True, exist_ok=True)
    _copy_calibration(checkpoint.folder, out)
    dtype = torch.float16 if half else torch.float32
    save_model(model, checkpoint.folder / TOKENIZER, out, dtype)
    stored = Checkpoint(folder=out, config=checkpoint.config)
    try:
        parity = _export_roles(load_model(stored), stored)  # weights rounded as on disk
        if reranker and second:
            parity |= export_reranker(second, reranker.folder / TOKENIZER, out, dtype)
    except CheckpointError:
        for graph in out.rglob("*.onnx"):
            graph.unlink()
        raise
    return parity


def _export_roles(model: ComposedModel, stored: Checkpoint) -> dict[str, Parity]:
    samples = real_samples(stored, stored.folder)
    parity = {}
    for role in ENGINES[stored.config.system]:
        path = stored.folder / f"{role}.onnx"
        module, prefix = _module(model, role)
        example = _random(model, role, 2, length=7, seed=0)
        write_graph(role, module, example, path, stored.folder / WEIGHTS, prefix=prefix)
        parity[role] = compare_role(model, role, path, _real(model, role, samples))
    return parity


def compare_role(
    model: ComposedModel, role: str, path: Path, real: Sequence[Sequence[Tensor]]
) -> Parity:
    """Hold a role's graph against the model, on random inputs and on real ones."""
    engine, face = OnnxRuntimeEngine(path), FACES[role]
    part, _ = _module(model, role)

    @torch.inference_mode()
    def module(inputs: Sequence[Tensor]) -> np.ndarray:
        return part(*inputs).numpy()

    def graph(inputs: Sequence[Tensor]) -> np.ndarray:
        given = {name: x.numpy() for name, x in zip(face.inputs, inputs, strict=True)}
        return engine.run(given)[face.output]

    random = _random(model, role, 5, length=model.config.context, seed=1)
    return compare(role, graph, module, random=[random], real=real)


def _module(model: ComposedModel, role: str) -> tuple[Any, str]:
    """Return a role as a module, and what its weights' names in the checkpoint begin with."""
    if model.config.system == "progressive":  # whose composer leaves vectors as they are
        return getattr(model, role), f"{role}."
    modules = {"image": ComposedPictures, "text": ComposedWords, "compose": ComposedQueries}
    return modules[role](model).eval(), ""


@torch.inference_mode()
def _random(model: ComposedModel, role: str, n: int, *, length: int, seed: int) -> list[Tensor]:
    pixels, ids = random_pixels(model, n, seed), random_ids(model, n, length, seed)
    if role == "compose":
        return [model.embed_pictures(pixels), model.embed_texts(ids)]
    return [pixels if role == "image" else ids]


@torch.inference_mode()
def _real(model: ComposedModel, role: str, samples: Samples | None) -> list[list[Tensor]]:
    """Return the calibration inputs of a role, in batches."""
    if samples is None:
        return []
    if role == "compose":
        pixels, ids = (torch.from_numpy(x[:BATCH]) for x in (samples.pixels, samples.ids))
        read = model.embed_pictures(pixels).numpy(), model.embed_texts(ids).numpy()
        samples = samples.paired(*read)
    return [[torch.from_numpy(x) for x in feed.values()] for feed in samples.feeds(role)]


def _copy_calibration(source: Path, out: Path) -> None:
    if (source / CALIBRATION).exists() and source.resolve() != out.resolve():
        shutil.copytree(source / CALIBRATION, out / CALIBRATION, dirs_exist_ok=True)
