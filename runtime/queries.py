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
    rerank: int | None = None  # candidates to put in a new order; as the bundle says unless said
    mode: str = "exact"  # or fast: the cascade
    deadline_ms: float | None = None  # from the call on; then the best ranking known is returned
    weight: float | None = None  # 1 picture only, 0 words only; the model's unless said
    where: str | None = None  # a condition on the metadata
    min_score: float | None = None  # pictures pruned with a score below it are no answer

    def __post_init__(self) -> None:
        pairs, rest = len(self.images), len(self.texts)
        if pairs != rest:
            raise UsageError(f"{pairs} images and {rest} texts. Expected as many of each.")
        if any(image is None and text is None for image, text in self._pairs()):
            raise UsageError("neither picture nor words. Give image=, text=, or both.")
        if self.k < 1:
            raise UsageError(f"k is {self.k}. Expected at least 1.")
        if self.rerank is not None and self.rerank < 0:
            raise UsageError(f"rerank is {self.rerank}. Expected 0 or more.")
        if self.rerank and any(image is None or text is None for image, text in self._pairs()):
            raise UsageError(
                f"rerank is {self.rerank}, but a query lacks picture or words, and the re-ranker "
                "reads both. Give both, or leave rerank out."
            )
        if self.deadline_ms is not None and not (0 < self.deadline_ms < math.inf):
            raise UsageError(f"deadline_ms is {self.deadline_ms}. Expected more than 0.")
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise UsageError(f"weight {self.weight} is outside 0 (words only) to 1 (picture only).")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise UsageError(f"min_score is {self.min_score}. Expected a finite number.")

    def candidates(self, default: int) -> list[int]:
        """Return how many candidates of each query are re-ranked; `default` unless said.

        Unless said, none where there is only a picture or only words to go by, also by the weight.
        """
        if self.rerank is not None:
            return [self.rerank] * len(self)
        one_sided = self.weight in (0, 1)
        return [
            0 if one_sided or image is None or text is None else default
            for image, text in self._pairs()
        ]

    def _pairs(self) -> zip[tuple[PictureSource | None, str | None]]:
        return zip(self.images, self.texts, strict=True)

    def __len__(self) -> int:
        return len(self.images)
