"""What a search returns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cir_rt.deadline import Deadline


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One picture of the answer; `rank` counts from 1.

    `prune_score` is the inner product of query and picture. `score` is the re-ranker's where the
    picture was re-ranked, else the inner product, lowered by a constant where it would stand above
    a picture that was: down the answer, scores never rise.
    """

    id: str
    score: float
    prune_score: float
    rank: int
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What the query listened to; both sum to 1."""

    image: float
    text: float


@dataclass(frozen=True, kw_only=True)
class Hits(Sequence[Hit]):
    """Ranked pictures, the weights, and milliseconds per stage (in `timing["total"]`: all).

    There are no weights where the system composes by attention.

    `reranked` candidates were given a score by the re-ranker, and the first hits are the best of
    them; `complete` is False where a deadline kept it from more, or from reading some at full
    depth. Where no picture fits, there is none, and `empty_because` says why.
    """

    hits: tuple[Hit, ...]
    weights: Weights | None
    timing: Mapping[str, float] = field(default_factory=dict)
    reranked: int = 0
    complete: bool = True
    empty_because: str = ""

    def __getitem__(self, index: Any) -> Any:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `cir-rt search --json`; an empty answer says why it is."""
        weights = self.weights and {"image": self.weights.image, "text": self.weights.text}
        empty = {"empty_because": self.empty_because} if self.empty_because else {}
        return {
            "hits": [
                {
                    "id": h.id,
                    "score": h.score,
                    "prune_score": h.prune_score,
                    "rank": h.rank,
                    "metadata": dict(h.metadata),
                }
                for h in self.hits
            ],
            "weights": weights,
            "reranked": self.reranked,
            "complete": self.complete,
            "timing_ms": dict(self.timing),
            **empty,
        }


class Stopwatch:
    """Laps that leave no gap, so that the stages sum to the total."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on a stage."""
        now = time.perf_counter()
        self._laps[stage] = self._laps.get(stage, 0.0) + 1000 * (now - self._last)
        self._last = now

    def deadline(self, after_ms: float | None) -> Deadline:
        """Return the instant so many milliseconds after the start; None: never."""
        return Deadline() if after_ms is None else Deadline(at_s=self._start + after_ms / 1000)

    def timing(self) -> dict[str, float]:
        """Return milliseconds per stage and in total."""
        return {**self._laps, "total": 1000 * (self._last - self._start)}
