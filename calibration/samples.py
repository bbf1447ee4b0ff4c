"""Calibration inputs: real pictures and captions, as the engines take them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from cir_rt.errors import DataError
from cir_rt.text import text_lengths

BATCH = 32
# Neighbouring pixels of photographs and drawings agree (0.8 and more); those of noise do not (0).
LEAST_AGREEMENT = 0.2


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Preprocessed pictures (n, 3, size, size) float32 and token ids (m, longest) int64."""

    pixels: np.ndarray
    ids: np.ndarray
    pad_id: int
    pairs: tuple[np.ndarray, np.ndarray] | None = None  # what a composer reads: v and u, (n, …)

    def feeds(self, role: str) -> list[dict[str, np.ndarray]]:
        """Return the role's inputs in batches; captions are sorted, so that few are padded."""
        if role in ("image", "rerank_image"):
            starts = range(0, len(self.pixels), BATCH)
            return [{"pixels": self.pixels[k : k + BATCH]} for k in starts]
        if role == "compose":
            if self.pairs is None:
                return []
            v, u = self.pairs
            starts = range(0, len(v), BATCH)
            return [{"v": v[k : k + BATCH], "u": u[k : k + BATCH]} for k in starts]
        lengths = text_lengths(self.ids, self.pad_id)
        order = np.argsort(lengths, kind="stable")
        feeds = []
        for k in range(0, len(order), BATCH):
            rows = order[k : k + BATCH]
            feeds.append(
                {"ids": np.ascontiguousarray(self.ids[rows, : max(1, lengths[rows].max())])}
            )
        return feeds

    def paired(self, v: np.ndarray, u: np.ndarray) -> Samples:
        """Return the samples with pictures and captions, as engines read them, pair by pair.

        Which belongs to which does not matter to ranges: the shorter list begins again.
        """
        if not len(v) or not len(u):
            return self
        rows = np.arange(max(len(v), len(u)))
        return replace(self, pairs=(v[rows % len(v)], u[rows % len(u)]))

    def digest(self) -> str:
        """Return a SHA-256 over all inputs, for the manifest."""
        whole = hashlib.sha256(self.pixels.tobytes())
        whole.update(self.ids.tobytes())
        return whole.hexdigest()


def check_real(samples: Samples, where: str) -> None:
    """Raise DataError for pictures that calibrate nothing: noise, or one picture again and again.

    Noise is told by the correlation of horizontal neighbours, the median over the pictures. What
    looks like a picture but is not one of the device's is not found out.
    """
    pixels = samples.pixels
    if len(pixels) > 1 and (pixels == pixels[0]).all():
        raise DataError(f"{where}: all {len(pixels)} pictures are the same. Give different ones.")
    agreement = [_neighbours(picture) for picture in pixels]
    if pixels.size and np.median(agreement) < LEAST_AGREEMENT:
        raise DataError(
            f"{where}: the pictures are noise (neighbouring pixels correlate by "
            f"{np.median(agreement):.2f}, pictures by 0.8 and more). Give real ones: ranges "
            "guessed from random data are worth nothing."
        )


def _neighbours(picture: np.ndarray) -> float:
    """Return the correlation of horizontal neighbours in (3, size, size); 1 where all is even."""
    flat = picture - picture.mean()
    left, right = flat[:, :, :-1], flat[:, :, 1:]
    power = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum()) / power if power > 0 else 1.0
