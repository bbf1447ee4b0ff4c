"""A checkpoint as an encoder: PyTorch behind the face that bundles have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.models.build import CirModel, check_device, load_model
from cir_rt.pictures import PictureSource
from cir_rt.text import Tokenizer


def open_encoder(
    checkpoint: Checkpoint, *, device: str = "cpu", threads: int | None = None
) -> TorchEncoder:
    """Load a checkpoint for evaluation."""
    check_device(device)
    if threads:
        torch.set_num_threads(threads)
    return TorchEncoder(load_model(checkpoint).to(device), checkpoint.tokenizer())


class TorchEncoder:
    """Encodes with the PyTorch model in FP32, in batches of `batch`."""

    def __init__(self, model: CirModel, tokenizer: Tokenizer, batch: int = 128) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch = batch
        self.device = next(model.parameters()).device

    def encode_pictures(self, sources: Sequence[PictureSource]) -> np.ndarray:
        """Return unit vectors (n, dim) float32. Raises PictureError."""
        preprocess = self.model.config.preprocess
        parts = [
            self._run(self.model.image, preprocess(sources[k : k + self.batch]))
            for k in range(0, len(sources), self.batch)
        ]
        return self._joined(parts)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, dim) float32; over-long texts are cut."""
        parts = [
            self._run(self.model.text, self.tokenizer(texts[k : k + self.batch], truncate=True))
            for k in range(0, len(texts), self.batch)
        ]
        return self._joined(parts)

    def compose(
        self, v: np.ndarray, u: np.ndarray, weight: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return unit queries (n, dim) and weights (n, 2); `weight` replaces the gate's."""
        with torch.inference_mode():
            pictures, words = torch.from_numpy(v), torch.from_numpy(u)
            q, weights = self.model.compose(pictures.to(self.device), words.to(self.device))
            if weight is not None:
                weights = torch.tensor([[weight, 1 - weight]], device=self.device).expand(len(v), 2)
                mixed = weight * pictures + (1 - weight) * words
                q = torch.nn.functional.normalize(mixed, dim=-1)
        return q.cpu().numpy(), weights.cpu().numpy()

    def _run(self, tower: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return tower(torch.from_numpy(inputs).to(self.device)).cpu().numpy()

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        empty = np.zeros((0, self.model.config.dim), np.float32)
        return np.concatenate(parts) if parts else empty
