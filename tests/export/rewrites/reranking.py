"""Re-ranking graphs beside the module that they are held against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from grounded_models import IMAGE_WIDTH, captions, config, stirred, tokens
from torch import nn

from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.export.models.prune import Prune
from cir_rt.export.models.reranker import Reranker
from cir_rt.export.rewrites.forms import write_rerank_graphs
from cir_rt.gallery.rowformat import RowFormat


class Model(nn.Module):
    """Stage I's text encoder and stage II, which no longer start alike."""

    def __init__(self, *, layers: int = 4, early: int = 0) -> None:
        super().__init__()
        self.text = Prune(config(layers=layers))
        self.rerank = Reranker.from_single(self.text.encoder, early)
        stirred(self)

    @torch.inference_mode()
    def scores(self, asked: Asked, *, early: bool = False) -> np.ndarray:
        """Return the module's scores (k,) of what the graphs are asked."""
        ids, reference, candidates = (
            torch.from_numpy(x) for x in (asked.ids, asked.reference, asked.candidates)
        )
        z = self.text.read(reference, ids)
        score = self.rerank.early_scores if early else self.rerank
        return score(z, ids, candidates)[0].numpy()


class Asked:
    """A query with its candidates; what the module reads are the numbers that codes stand for."""

    def __init__(self, k: int, length: int = 7, places: int = 5, *, coded: bool = True) -> None:
        self.ids = captions(1, length, seed=length).numpy()
        self.reference = tokens(1, places, seed=1).numpy()
        self.candidates = tokens(k, places, seed=2).numpy()
        rows = RowFormat(precision="int8", shape=(places, IMAGE_WIDTH))
        self.stored = rows.encode(self.candidates)
        self.coded = coded
        if coded:
            self.candidates = rows.decode(self.stored)

    def tokens(self, rows: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """Return some candidates as an engine takes them."""
        if not self.coded:
            return {"tokens": self.candidates[rows]}
        return {"tokens": self.stored["codes"][rows], "scales": self.stored["scales"][rows]}


class Graphs:
    """A form's graphs in ONNX Runtime."""

    def __init__(self, model: nn.Module, folder: Path, form: str, **options: bool | str) -> None:
        folder.mkdir(exist_ok=True)
        settings: dict = {"early": False, **options}
        paths = write_rerank_graphs(model, folder, form=form, **settings)
        self.engines = {role: OnnxRuntimeEngine(path, threads=1) for role, path in paths.items()}

    def run(self, role: str, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a graph on what it asks for."""
        engine = self.engines[role]
        return engine.run({spec.name: given[spec.name] for spec in engine.inputs})

    def state(self, asked: Asked) -> dict[str, np.ndarray]:
        """Return what depends on the query alone."""
        return self.run("rerank_query", {"ids": asked.ids, "reference": asked.reference})

    def scores(self, asked: Asked, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the scores of some candidates."""
        return self.run("rerank", {**self.state(asked), **asked.tokens(rows)})["scores"]
