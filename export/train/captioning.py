"""Training of the difference captioner, and the captions that it writes for pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer as Pieces

from cir_rt.errors import DataError
from cir_rt.export.models.captioner import DifferenceCaptioner, captions
from cir_rt.export.models.encoded import Encoded
from cir_rt.export.train.chance import chance

_BATCH = 64  # pairs that are captioned together


@dataclass(frozen=True, kw_only=True)
class Captioning:
    """How a captioner is trained, and how it searches."""

    epochs: int = 20
    captions: int = 64  # of a batch
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of the steps
    beams: int = 3

    def __post_init__(self) -> None:
        for name in ("epochs", "captions", "beams"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Described:
    """Pairs with their captions, as rows of a table of pictures."""

    reference: np.ndarray  # (n,) int64
    target: np.ndarray  # (n,) int64
    ids: np.ndarray  # (n, length) int64, padded
    weights: np.ndarray  # (n,) float32: pseudo-triplets weigh less than labelled ones


def train_captioner(
    captioner: DifferenceCaptioner,
    seen: Encoded,
    described: Described,
    settings: Captioning,
    *,
    seed: int = 0,
    progress: Callable[[float, float], None] | None = None,
) -> None:
    """Train on pairs of `seen`, the pictures as a frozen tower reads them.

    AdamW, the rate rising, then falling as a cosine. `progress` is told the share that is done and
    the loss. Raises DataError without captions.
    """
    count = len(described.reference)
    if not count:
        raise DataError("no captioned pair to train the captioner on.")
    batches = math.ceil(count / settings.captions)
    optimizer = torch.optim.AdamW(captioner.parameters(), weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=settings.learning_rate,
        total_steps=settings.epochs * batches + 1,
        pct_start=settings.warmup,
        cycle_momentum=False,
    )
    captioner.train()
    for epoch in range(settings.epochs):
        order = chance(seed, epoch).rng.permutation(count)
        for k, rows in enumerate(np.array_split(order, batches)):
            chance(seed, epoch, k)  # dropout's draws
            loss = _loss(captioner, seen, described, rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(captioner.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if progress:
                progress((epoch + (k + 1) / batches) / settings.epochs, float(loss.detach()))
    captioner.eval()


def _loss(
    captioner: DifferenceCaptioner, seen: Encoded, described: Described, rows: np.ndarray
) -> torch.Tensor:
    device = next(captioner.parameters()).device
    return captioner.loss(
        _pictures(seen, described.reference[rows], device),
        _pictures(seen, described.target[rows], device),
        torch.from_numpy(described.ids[rows]).to(device),
        torch.from_numpy(described.weights[rows]).to(device),
    )


def write_captions(
    captioner: DifferenceCaptioner,
    seen: Encoded,
    pairs: np.ndarray,
    pieces: Pieces,
    *,
    beams: int = 3,
) -> list[str]:
    """Caption pairs (n, 2) of rows of `seen` by beam search."""
    captioner.eval()
    device = next(captioner.parameters()).device
    texts: list[str] = []
    for start in range(0, len(pairs), _BATCH):
        reference, target = pairs[start : start + _BATCH].T
        ids = captioner.write(
            _pictures(seen, reference, device), _pictures(seen, target, device), beams=beams
        )
        texts += captions(ids.cpu(), pieces)
    return texts


def _pictures(seen: Encoded, rows: np.ndarray, device: torch.device) -> Encoded:
    """Return rows of a table that may lie on another device, its tokens in half precision."""
    found = seen[torch.from_numpy(np.ascontiguousarray(rows)).to(seen.vectors.device)]
    return Encoded(vectors=found.vectors.to(device), tokens=found.tokens.to(device, torch.float32))
