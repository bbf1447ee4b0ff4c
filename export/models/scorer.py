"""The re-ranker behind arrays: pictures to tokens, and queries with candidates to scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.models.storage import check_device, load_model
from cir_rt.export.models.systems import RerankModel
from cir_rt.pictures import PictureSource
from cir_rt.text import Tokenizer


def open_scorer(
    checkpoint: Checkpoint, *, device: str = "cpu", threads: int | None = None
) -> Scorer:
    """Load a re-ranker for evaluation. Raises CheckpointError for any other system."""
    check_device(device)
    if threads:
        torch.set_num_threads(threads)
    model = load_model(checkpoint)
    if not isinstance(model, RerankModel):
        raise CheckpointError(
            f"{checkpoint.folder}: a checkpoint of {checkpoint.config.system}, expected rerank. "
            "Train one:  cir-rt train rerank --init STAGE_ONE --data DATA --out CKPT"
        )
    return Scorer(model.to(device), checkpoint.tokenizer())


class Scorer:
    """Scores candidates with the PyTorch model in FP32, at most `pairs` of them at once."""

    def __init__(self, model: RerankModel, tokenizer: Tokenizer, pairs: int = 512) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.pairs = pairs
        self.device = next(model.parameters()).device

    def read(self, sources: Sequence[PictureSource]) -> np.ndarray:
        """Return the pictures' tokens (n, places, width) float32. Raises PictureError."""
        preprocess = self.model.config.preprocess
        parts = []
        with torch.inference_mode():
            for k in range(0, len(sources), 128):
                pixels = torch.from_numpy(preprocess(sources[k : k + 128]))
                parts.append(self.model.image.read(pixels.to(self.device)).tokens.cpu().numpy())
        return np.concatenate(parts)

    def score(
        self, reference: np.ndarray, texts: Sequence[str], candidates: np.ndarray
    ) -> np.ndarray:
        """Return scores (n, k) float32 of tokens (n, k, places, width), higher is better.

        `reference` (n, places, width) are the references' tokens; over-long texts are cut.
        """
        ids = self.tokenizer(texts, truncate=True)
        step = max(1, self.pairs // candidates.shape[1])
        scores = np.empty(candidates.shape[:2], np.float32)
        with torch.inference_mode():
            for k in range(0, len(texts), step):
                rows = slice(k, k + step)
                said = torch.from_numpy(ids[rows]).to(self.device)
                z = self.model.text.read(torch.from_numpy(reference[rows]).to(self.device), said)
                found = torch.from_numpy(candidates[rows]).to(self.device)
                scores[rows] = self.model.rerank.pairs(z, said, found).cpu().numpy()
        return scores
