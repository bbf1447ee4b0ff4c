"""What one search asks, from the fields of its request."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cir_rt.pictures import PictureSource

K = 10


class How(NamedTuple):
    """How a search is answered; what is None is left to the retriever."""

    k: int = K
    rerank: int | None = None
    mode: str | None = None
    weight: float | None = None
    where: str | None = None
    min_score: float | None = None

    def arguments(self) -> dict[str, Any]:
        """Return what `Retriever.search_batch` is to be told."""
        return {name: value for name, value in self._asdict().items() if value is not None}


USUAL = How()


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """One search: a picture, words or both."""

    image: PictureSource | None = None
    text: str | None = None
    how: How = USUAL
    due_s: float = math.inf  # on `time.perf_counter`; then the best ranking known is returned

    @classmethod
    def of(cls, values: Mapping[str, Any], image: PictureSource | None, begun_s: float) -> Query:
        """Return the search that checked values ask, with the picture made of them."""
        how = How(**{name: values[name] for name in How._fields if name in values})
        due_s = begun_s + values.get("deadline_ms", math.inf) / 1000
        return cls(image=image, text=values.get("text"), how=how, due_s=due_s)

    @property
    def company(self) -> tuple[How, bool]:
        """What is the same for all searches that are answered together."""
        return self.how, self.due_s < math.inf


def left_ms(queries: Sequence[Query]) -> float | None:
    """Return the milliseconds until the first of them is due, at least 1; None: none ever is."""
    due_s = min(query.due_s for query in queries)
    return None if due_s == math.inf else max(1.0, 1000 * (due_s - time.perf_counter()))
