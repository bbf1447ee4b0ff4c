"""Calibration inputs: real pictures and captions, as the engines take them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from cir_rt.text import text_lengths

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Preprocessed pictures (n, 3, size, size) float32 and token ids (m, longest) int64."""

    pixels: np.ndarray
    ids: np.ndarray
    pad_id: int

    def feeds(self, role: str) -> list[dict[str, np.ndarray]]:
        """Return the role's inputs in batches; captions are sorted, so that few are padded."""
        if role == "image":
            starts = range(0, len(self.pixels), BATCH)
            return [{"pixels": self.pixels[k : k + BATCH]} for k in starts]
        lengths = text_lengths(self.ids, self.pad_id)
        order = np.argsort(lengths, kind="stable")
        feeds = []
        for k in range(0, len(order), BATCH):
            rows = order[k : k + BATCH]
            feeds.append(
                {"ids": np.ascontiguousarray(self.ids[rows, : max(1, lengths[rows].max())])}
            )
        return feeds

    def digest(self) -> str:
        """Return a SHA-256 over all inputs, for the manifest."""
        whole = hashlib.sha256(self.pixels.tobytes())
        whole.update(self.ids.tobytes())
        return whole.hexdigest()
