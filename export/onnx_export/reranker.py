"""A re-ranker's part of the graphs folder: its weights, and the graph that reads pictures."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cir_rt.calibration.samples import Samples
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.export.checkpoint import RERANKER, WEIGHTS, Checkpoint
from cir_rt.export.models.storage import load_reranker, save_model
from cir_rt.export.models.systems import RerankModel
from cir_rt.export.onnx_export.graph import (
    FACES,
    PictureTokens,
    random_ids,
    random_pixels,
    write_graph,
)
from cir_rt.export.onnx_export.parity import Parity, compare, real_samples
from cir_rt.export.rewrites.forms import FORMS, write_rerank_graphs
from cir_rt.gallery.rowformat import RowFormat
from cir_rt.text import text_lengths

ASKED = 8  # queries, and candidates of each, that a form is held against PyTorch with


@dataclass(frozen=True, kw_only=True)
class _Question:
    """A query to be re-ranked, its candidates as a gallery stores them."""

    ids: Tensor  # (1, length)
    reference: Tensor  # (1, places, width)
    stored: np.ndarray  # (candidates,) rows
    candidates: Tensor  # the same as numbers, (candidates, places, width)


def export_reranker(
    model: RerankModel, tokenizer: Path, out: Path, dtype: torch.dtype
) -> dict[str, Parity]:
    """Write the re-ranker's folder into the graphs folder `out`; return the differences.

    The graphs that score are written from its weights when an engine is built; those in FP32 are
    held against PyTorch here. Raises CheckpointError where a graph strays from it by more than
    1e-4.
    """
    stored = Checkpoint(folder=out / RERANKER, config=model.config)
    save_model(model, tokenizer, stored.folder, dtype)
    model = load_reranker(stored)  # its weights rounded as on disk
    samples = real_samples(stored, out)
    parity = {"rerank_image": _export_image(model, stored.folder, samples)}
    for form in FORMS:
        if not form.endswith("int8"):
            parity[f"rerank {form}"] = _compare_form(model, form, samples)
    return parity


def _export_image(model: RerankModel, folder: Path, samples: Samples | None) -> Parity:
    path, module = folder / "rerank_image.onnx", PictureTokens(model.image)
    write_graph("rerank_image", module, [random_pixels(model, 2, 0)], path, folder / WEIGHTS)
    engine, face = OnnxRuntimeEngine(path), FACES["rerank_image"]
    real = samples.feeds("rerank_image") if samples else []
    return compare(
        "rerank_image",
        lambda pixels: engine.run({face.input: pixels.numpy()})[face.output],
        lambda pixels: _tokens(model, pixels).numpy(),
        random=[random_pixels(model, 5, 1)],
        real=[torch.from_numpy(feed[face.input]) for feed in real],
    )


def _compare_form(model: RerankModel, form: str, samples: Samples | None) -> Parity:
    with tempfile.TemporaryDirectory() as folder:
        files = write_rerank_graphs(model, Path(folder), form=form, early=False, tokens="int8")
        query, rerank = (OnnxRuntimeEngine(files[role]) for role in ("rerank_query", "rerank"))

    def graph(asked: _Question) -> np.ndarray:
        state = query.run({"ids": asked.ids.numpy(), "reference": asked.reference.numpy()})
        tokens = {"tokens": asked.stored["codes"], "scales": asked.stored["scales"]}
        return rerank.run({**state, **tokens})["scores"]

    @torch.inference_mode()
    def module(asked: _Question) -> np.ndarray:
        z = model.text.read(asked.reference, asked.ids)
        return model.rerank(z, asked.ids, asked.candidates)[0].numpy()

    real = []
    if samples:
        real = _questions(model, torch.from_numpy(samples.pixels[:ASKED]), samples.ids[:ASKED])
    pixels, ids = random_pixels(model, ASKED, 2), random_ids(model, ASKED, 13, 2)
    random = _questions(model, pixels, ids.numpy())
    return compare(f"rerank {form}", graph, module, random=random, real=real)


def _questions(model: RerankModel, pixels: Tensor, ids: np.ndarray) -> list[_Question]:
    """Ask each text beside a picture, with all of the pictures as candidates."""
    tokens = _tokens(model, pixels)
    rows = RowFormat(precision="int8", shape=tuple(tokens.shape[1:]))
    stored = rows.encode(tokens.numpy())
    lengths = text_lengths(ids, model.config.pad_id)
    return [
        _Question(
            ids=torch.from_numpy(ids[k : k + 1, : lengths[k]]),
            reference=tokens[k % len(tokens)][None],
            stored=stored,
            candidates=torch.from_numpy(rows.decode(stored)),
        )
        for k in range(len(ids))
    ]


@torch.inference_mode()
def _tokens(model: RerankModel, pixels: Tensor) -> Tensor:
    return model.image.read(pixels).tokens
