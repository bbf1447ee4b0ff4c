"""What is asked of a retriever at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cir_rt.errors import UsageError
from cir_rt.pictures import PictureSource


@dataclass(frozen=True, kw_only=True, eq=False)
class Queries:
    """Pictures and words, pair by pair, and how all of them are answered.

    Raises UsageError for what cannot be asked.
    """

    images: Sequence[PictureSource | None]
    texts: Sequence[str | None]
    k: int = 10
    rerank: int | None = None
    weight: float | None = None  # 1 picture only, 0 words only; the model's unless said
    where: str | None = None  # a condition on the metadata
    min_score: float | None = None  # pictures that score below it are no answer

    def __post_init__(self) -> None:
        pairs, rest = len(self.images), len(self.texts)
        if pairs != rest:
            raise UsageError(f"{pairs} images and {rest} texts. Expected as many of each.")
        asked = zip(self.images, self.texts, strict=True)
        if any(image is None and text is None for image, text in asked):
            raise UsageError("neither picture nor words. Give image=, text=, or both.")
        if self.k < 1:
            raise UsageError(f"k is {self.k}. Expected at least 1.")
        if self.rerank:
            raise UsageError(
                f"rerank is {self.rerank}, but this version of cir-rt prunes only. Leave it out, "
                "or say 0."
            )
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise UsageError(f"weight {self.weight} is outside 0 (words only) to 1 (picture only).")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise UsageError(f"min_score is {self.min_score}. Expected a finite number.")

    def __len__(self) -> int:
        return len(self.images)
