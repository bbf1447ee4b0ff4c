"""The runtime's re-ranker as a scorer: what evaluation and the gates of a build ask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cir_rt.bundle import Bundle
from cir_rt.pictures import PictureSource
from cir_rt.rerank import Reranker, Tokens

PICTURES = 32  # read and stored together


class RuntimeScorer:
    """Scores candidates on rows as a gallery stores them, in one of the re-ranker's modes."""

    def __init__(self, reranker: Reranker, mode: str = "exact") -> None:
        """Raises UsageError for a mode that the re-ranker does not have."""
        reranker.check_mode(mode)
        self.reranker, self.mode = reranker, mode
        self.rows = reranker.token_format.rows

    @classmethod
    def open(
        cls, bundle: Bundle, *, mode: str = "exact", device: str = "cpu", threads: int | None = None
    ) -> RuntimeScorer:
        """Open a bundle's re-ranker. Raises BundleError where there is none."""
        return cls(Reranker.open(bundle, device=device, threads=threads), mode)

    def read(self, sources: Sequence[PictureSource]) -> np.ndarray:
        """Return the pictures' rows, (n,) or (n, places, width). Raises PictureError."""
        preprocess = self.reranker.preprocess
        parts = [
            self.rows.encode(self.reranker.encode_tokens(preprocess(sources[k : k + PICTURES])))
            for k in range(0, len(sources), PICTURES)
        ]
        return np.concatenate([self.rows.empty(0), *parts])

    def score(
        self,
        reference: np.ndarray,
        texts: Sequence[str],
        candidates: np.ndarray,
        pruned: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """Return scores (n, k) of rows (n, …) with candidates' (n, k, …); long texts are cut.

        `pruned` (n, k) are the candidates' inner products.
        """
        scores = np.empty(candidates.shape[:2], np.float32)
        pruned = np.broadcast_to(pruned, scores.shape)
        for n, text in enumerate(texts):
            state = self.reranker.query(text, self.rows.decode(reference[n]), truncate=True)

            def fetch(start: int, stop: int, found: np.ndarray = candidates[n]) -> Tokens:
                return self.tokens(found[start:stop])

            ranked = self.reranker.rank(
                state, fetch, len(candidates[n]), pruned=pruned[n], mode=self.mode
            )
            scores[n] = ranked.scores
        return scores

    def tokens(self, rows: np.ndarray) -> Tokens:
        """Return stored rows as the re-ranker's engines take them."""
        if self.reranker.takes_codes:
            return rows["codes"], rows["scales"]
        return self.rows.decode(rows)

    def close(self) -> None:
        """Release the re-ranker's engines."""
        self.reranker.close()
