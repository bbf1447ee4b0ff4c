"""A checkpoint as an encoder: PyTorch behind the face that bundles have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cir_rt.errors import UsageError
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.models.storage import check_device, load_model
from cir_rt.export.models.systems import CirModel, PruneModel
from cir_rt.pictures import PictureSource
from cir_rt.text import Tokenizer


def open_encoder(
    checkpoint: Checkpoint, *, device: str = "cpu", threads: int | None = None
) -> TorchEncoder | TorchQueryEncoder:
    """Load a checkpoint for evaluation."""
    check_device(device)
    if threads:
        torch.set_num_threads(threads)
    return encoder_of(load_model(checkpoint).to(device), checkpoint.tokenizer())


def encoder_of(model: CirModel, tokenizer: Tokenizer) -> TorchEncoder | TorchQueryEncoder:
    """Return what encodes with a model of this kind."""
    if isinstance(model, PruneModel):
        return TorchQueryEncoder(model, tokenizer)
    return TorchEncoder(model, tokenizer)


class PictureEncoder:
    """Encodes a gallery with the PyTorch model in FP32, in batches of `batch`."""

    def __init__(self, model: Any, tokenizer: Tokenizer, batch: int = 128) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch = batch
        self.device = next(model.parameters()).device

    def encode_pictures(self, sources: Sequence[PictureSource]) -> np.ndarray:
        """Return unit vectors (n, dim) float32. Raises PictureError."""
        return self._joined(self._pictures(self.model.embed_pictures, sources))

    def _pictures(
        self, tower: Callable[[Tensor], Tensor], sources: Sequence[PictureSource]
    ) -> list[np.ndarray]:
        """Run pictures through the tower, batch by batch."""
        preprocess = self.model.config.preprocess
        return [
            self._run(tower, preprocess(sources[k : k + self.batch]))
            for k in range(0, len(sources), self.batch)
        ]

    def _run(self, tower: Callable[..., Tensor], *inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return tower(*(torch.from_numpy(x).to(self.device) for x in inputs)).cpu().numpy()

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        empty = np.zeros((0, self.model.config.dim), np.float32)
        return np.concatenate(parts) if parts else empty


class TorchEncoder(PictureEncoder):
    """Encodes pictures and words apart, then composes them."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, dim) float32; over-long texts are cut."""
        parts = [
            self._run(
                self.model.embed_texts, self.tokenizer(texts[k : k + self.batch], truncate=True)
            )
            for k in range(0, len(texts), self.batch)
        ]
        return self._joined(parts)

    def compose(
        self, v: np.ndarray, u: np.ndarray, weight: float | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return unit queries (n, dim) and weights (n, 2); `weight` replaces the gate's.

        Where the system composes by attention the weights are None, and `weight` a UsageError.
        """
        with torch.inference_mode():
            pictures, words = torch.from_numpy(v), torch.from_numpy(u)
            q, weights = self.model.compose(pictures.to(self.device), words.to(self.device))
            if weights is None:
                if weight is not None:
                    raise UsageError("weight: the system composes by attention. Leave it out.")
                return q.cpu().numpy(), None
            if weight is not None:
                weights = torch.tensor([[weight, 1 - weight]], device=self.device).expand(len(v), 2)
                mixed = weight * pictures + (1 - weight) * words
                q = torch.nn.functional.normalize(mixed, dim=-1)
        return q.cpu().numpy(), weights.cpu().numpy()


class TorchQueryEncoder(PictureEncoder):
    """Encodes captions beside their references: stage I of re-ranking."""

    def encode_queries(
        self, references: Sequence[PictureSource], texts: Sequence[str]
    ) -> np.ndarray:
        """Return unit queries (n, dim) float32. Raises PictureError."""
        parts = []
        for k in range(0, len(texts), self.batch):
            rows = slice(k, k + self.batch)
            pixels = self.model.config.preprocess(references[rows])
            ids = self.tokenizer(texts[rows], truncate=True)
            parts.append(self._run(self._query, pixels, ids))
        return self._joined(parts)

    def _query(self, pixels: Tensor, ids: Tensor) -> Tensor:
        return self.model.text(self.model.image.read(pixels).tokens, ids)
