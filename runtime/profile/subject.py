"""What is profiled: the whole query, or, where no gallery is given, the encoders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cir_rt.encoder import Encoder
from cir_rt.profile.questions import Question
from cir_rt.profile.scenarios import Ask
from cir_rt.results import Stopwatch
from cir_rt.retriever import Retriever

RECALLS = (1, 10, 50)


class Subject(Protocol):
    """Something that answers questions and tells how long each of its stages took."""

    device: str

    def ask(self, rerank: int) -> Ask:
        """Return what answers questions, re-ranking so many candidates."""

    def recall(self, questions: Sequence[Question], rerank: int) -> dict[str, float] | None:
        """Return the share of questions answered rightly, in percent; None where not known."""

    def close(self) -> None:
        """Release what it holds."""


class WholeQuery:
    """From picture and words to hits, as an application asks."""

    def __init__(self, retriever: Retriever, *, k: int, mode: str) -> None:
        """Take an opened retriever, which `close` closes."""
        self._retriever = retriever
        self._k = k
        self._mode = mode
        self.device = retriever.device

    def ask(self, rerank: int) -> Ask:
        """Return the search for k hits."""
        how = {"k": self._k, **reranking(rerank, self._mode)}

        def search(questions: Sequence[Question]) -> Mapping[str, float]:
            images, texts = [q.image for q in questions], [q.text for q in questions]
            return self._retriever.search_batch(images, texts, **how)[0].timing

        return search

    def recall(self, questions: Sequence[Question], rerank: int) -> dict[str, float] | None:
        """Ask those questions whose answers are known once more, and count within the best 50.

        The gallery is ranked as one, without the reference where a question says its id.
        """
        asked = [question for question in questions if question.targets]
        if not asked:
            return None
        how = {"k": max(RECALLS), **reranking(rerank, self._mode)}
        ranks = []
        for question in asked:
            image = question.image if question.known is None else question.known
            hits = self._retriever.search(image, question.text, **how)
            right = (hit.rank for hit in hits if hit.id in question.targets)
            ranks.append(next(right, max(RECALLS) + 1))
        return {f"R@{k}": round(100 * sum(r <= k for r in ranks) / len(ranks), 2) for k in RECALLS}

    def close(self) -> None:
        """Close the retriever."""
        self._retriever.close()


class Encoders:
    """Both encoders and the composition, without a search."""

    def __init__(self, encoder: Encoder) -> None:
        """Take an opened encoder, which `close` closes."""
        self._encoder = encoder
        self.device = encoder.device

    def ask(self, rerank: int) -> Ask:
        """Return what makes query vectors."""
        assert not rerank, "nothing to re-rank without a gallery"
        return self._compose

    def recall(self, questions: Sequence[Question], rerank: int) -> dict[str, float] | None:
        """Return None: nothing is found."""
        return None

    def close(self) -> None:
        """Release the engines."""
        self._encoder.close()

    def _compose(self, questions: Sequence[Question]) -> Mapping[str, float]:
        clock = Stopwatch()
        ids = self._encoder.tokenizer([question.text for question in questions])
        clock.lap("tokenize")
        u = self._encoder.encode_ids(ids)
        clock.lap("text")
        pixels = self._encoder.preprocess([question.image for question in questions])
        clock.lap("preprocess")
        v = self._encoder.encode_pixels(pixels)
        clock.lap("image")
        self._encoder.compose(v, u, None)
        clock.lap("compose")
        return clock.timing()


def reranking(rerank: int, mode: str) -> dict[str, Any]:
    """Return the arguments of a search that re-ranks so many candidates."""
    return {"rerank": rerank, "mode": mode} if rerank else {"rerank": 0}
