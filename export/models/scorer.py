"""The re-ranker behind arrays: pictures to tokens, and queries with candidates to scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.models.encoder import PictureEncoder
from cir_rt.export.models.storage import check_device, load_reranker
from cir_rt.export.models.systems import RerankModel
from cir_rt.pictures import PictureSource
from cir_rt.text import Tokenizer


def open_scorer(
    checkpoint: Checkpoint,
    *,
    prune_weight: float = 0.0,
    device: str = "cpu",
    threads: int | None = None,
) -> Scorer:
    """Load a re-ranker for evaluation. Raises CheckpointError for any other system."""
    check_device(device)
    if threads:
        torch.set_num_threads(threads)
    model = load_reranker(checkpoint).to(device)
    return Scorer(model, checkpoint.tokenizer(), prune_weight=prune_weight)


class Scorer(PictureEncoder):
    """Scores candidates with the PyTorch model in FP32, at most `pairs` of them at once.

    `prune_weight` times their inner products is added.
    """

    def __init__(
        self,
        model: RerankModel,
        tokenizer: Tokenizer,
        *,
        prune_weight: float = 0.0,
        pairs: int = 512,
    ) -> None:
        super().__init__(model, tokenizer)
        self.prune_weight, self.pairs = prune_weight, pairs

    def read(self, sources: Sequence[PictureSource]) -> np.ndarray:
        """Return the pictures' tokens (n, places, width) float16. Raises PictureError."""
        return np.concatenate(self._pictures(self._tokens, sources))

    def _tokens(self, pixels: Tensor) -> Tensor:
        return self.model.image.read(pixels).tokens.half()

    def score(
        self,
        reference: np.ndarray,
        texts: Sequence[str],
        candidates: np.ndarray,
        pruned: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """Return scores (n, k) float32 of tokens (n, k, places, width), higher is better.

        `reference` (n, places, width) are the references' tokens, all of them as `read` gives
        them, `pruned` (n, k) the candidates' inner products; over-long texts are cut.
        """
        ids = self.tokenizer(texts, truncate=True)
        step = max(1, self.pairs // candidates.shape[1])
        scores = np.empty(candidates.shape[:2], np.float32)
        for k in range(0, len(texts), step):
            rows = slice(k, k + step)
            scores[rows] = self._run(self._pairs, reference[rows], ids[rows], candidates[rows])
        return scores + np.float32(self.prune_weight) * np.asarray(pruned, np.float32)

    def _pairs(self, reference: Tensor, ids: Tensor, candidates: Tensor) -> Tensor:
        z = self.model.text.read(reference.float(), ids)
        return self.model.rerank.pairs(z, ids, candidates.float())
