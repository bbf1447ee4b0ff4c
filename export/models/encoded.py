"""What a tower reads out of its inputs: one global vector and local tokens each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Pictures or texts, read by a tower."""

    vectors: Tensor  # (n, dim), unit length: what an inner product compares
    tokens: Tensor  # (n, length, width): places of a picture, words of a text
    mask: Tensor | None = None  # (n, length) bool, False on padding; None: every token counts

    def __getitem__(self, rows: Tensor) -> Encoded:
        """Return some of the inputs, repeats and any order allowed."""
        mask = None if self.mask is None else self.mask[rows]
        return Encoded(vectors=self.vectors[rows], tokens=self.tokens[rows], mask=mask)

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """Return pictures of several batches as one."""
        return cls(
            vectors=torch.cat([part.vectors for part in parts]),
            tokens=torch.cat([part.tokens for part in parts]),
        )


class Tower(Protocol):
    """An image or text tower; calling it returns the vectors alone."""

    width: int  # of a token

    def read(self, inputs: Tensor) -> Encoded:
        """Return vectors and tokens of pictures (n, 3, size, size) or ids (n, length)."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return unit vectors (n, dim)."""
