"""What a way to re-rank is worth beside FP32: recall, or agreement, over the same candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cir_rt.bundle import RerankSettings
from cir_rt.calibration.gate import (
    Cosines,
    Gate,
    agreement_gate,
    cosine_gate,
    cosines,
    recall_drop,
    recall_gate,
    top_agreement,
)
from cir_rt.errors import DataError
from cir_rt.export.build.calibration_set import CalibrationSet
from cir_rt.export.build.candidates import Candidate
from cir_rt.export.build.judge import Recall
from cir_rt.export.build.options import BuildOptions
from cir_rt.export.build.reranker.forms import Form
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.evaluate import Columns, Scored, report
from cir_rt.export.rerank import best_columns, raise_columns
from cir_rt.export.runtime_scorer import RuntimeScorer
from cir_rt.rerank import Reranker

# A query as a scorer takes it: its reference's row (1, …), its text, its candidates' rows
# (1, candidates, …) and their inner products (1, candidates).
Question = tuple[np.ndarray, list[str], np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """A form with the image engine whose tokens it reads."""

    form: Form
    image: Candidate

    def __str__(self) -> str:
        return f"{self.form}, tokens by {self.image}"


@dataclass(frozen=True, kw_only=True)
class RerankVerdict:
    """A way to re-rank on the held-back queries."""

    recall: Recall  # on tokens of its own image engine; empty without labels
    recall_mixed: Recall  # on tokens of the FP32 image engine
    agreement: float  # percent of FP32's top 10 found again
    scores: Cosines  # of each query's scores to FP32's, both centred
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate is open."""
        return all(gate.passed for gate in self.gates)


class RerankJudge:
    """Re-ranks the FP32 towers' best candidates of every held-back query, way by way.

    The reference is the plain form on tokens that nobody quantized or merged; every way reads
    tokens as a gallery stores them.
    """

    def __init__(
        self,
        graphs: Checkpoint,
        calibration: CalibrationSet,
        pruned: Sequence[Scored],
        reference: Way,
        indexer: Candidate,
        settings: RerankSettings,
        options: BuildOptions,
    ) -> None:
        """`pruned` are the scores of every held-back query, `indexer` an FP32 gallery's engine.

        Raises DataError without captions.
        """
        self.graphs, self.calibration = graphs, calibration
        self.reference, self.indexer = reference, indexer
        self.settings, self.options = settings, options
        self._pruned = list(pruned)
        if not all(query.captions for query in calibration.split.queries):
            raise DataError(
                "rerank: nothing to ask, since a re-ranker reads words beside the picture. "
                "Give captions: a dataset, or captions.txt beside the pictures, one in a line."
            )
        split = calibration.split
        least = min(len(gallery) for gallery in split.galleries.values())
        self.count = max(
            1, min(settings.candidates, least - 1)
        )  # less a reference that may be none
        self._rows: dict[tuple[Candidate, str], np.ndarray] = {}
        self._scores: dict[tuple[Form, Candidate], np.ndarray] = {}

    def verdict(self, way: Way) -> RerankVerdict:
        """Re-rank with it, and compare."""
        exact = self.scores(self.reference)
        own, mixed = self.scores(way), self.scores(replace(way, image=self.indexer))
        agreement = min(top_agreement(exact, own), top_agreement(exact, mixed))
        recall, recall_mixed = self.recall(own), self.recall(mixed)
        gates = []
        if self.calibration.labelled:
            limit = self.options.max_recall_drop
            gates.append(recall_gate(self.before, recall, limit, "re-ranked"))
            if own is not mixed:
                what = "re-ranked on an FP32 gallery"
                gates.append(recall_gate(self.before, recall_mixed, limit, what))
        else:
            gates.append(agreement_gate(agreement, self.options.min_agreement, "re-ranked"))
        if way.image is not self.indexer:
            near = cosines(self.indexer.vectors, way.image.vectors)
            gates.append(cosine_gate(near, self.options.min_cosine, "rerank_image"))
        return RerankVerdict(
            recall=recall,
            recall_mixed=recall_mixed,
            agreement=agreement,
            scores=cosines(_centred(exact), _centred(own)),
            gates=tuple(gates),
        )

    @cached_property
    def before(self) -> Recall:
        """Recall of the reference; empty without labels."""
        return self.recall(self.scores(self.reference))

    @property
    def pruned(self) -> Recall:
        """Recall of the candidates as they were pruned; empty without labels."""
        count = sum(len(block.scores) for block in self._pruned)
        return self.recall(-np.arange(self.count, dtype=np.float32)[None].repeat(count, 0))

    def recall(self, scores: np.ndarray) -> Recall:
        """Return the recall of candidates ranked by scores (queries, candidates)."""
        if not self.calibration.labelled:
            return {}
        dataset, split = self.calibration.dataset, self.calibration.split
        return report(self._raised(scores), dataset.name, split).recall

    def drop(self, verdict: RerankVerdict) -> float:
        """Return the larger loss of both recalls, in points; without labels of agreement."""
        if not self.calibration.labelled:
            return 100 - verdict.agreement
        return max(recall_drop(self.before, r) for r in (verdict.recall, verdict.recall_mixed))

    def lost(self, scores: np.ndarray, wanted: np.ndarray) -> float:
        """Return the points lost by ranking with scores instead of those that are wanted.

        They are of recall or, where nothing is labelled, of agreement of the best 10.
        """
        if self.calibration.labelled:
            return recall_drop(self.recall(wanted), self.recall(scores))
        return 100 - top_agreement(wanted, scores)

    @property
    def limit(self) -> float:
        """The points that may be lost."""
        if self.calibration.labelled:
            return self.options.max_recall_drop
        return 100 - self.options.min_agreement

    def scores(self, way: Way) -> np.ndarray:
        """Return (queries, candidates) float32, queries by group; computed once for each way."""
        key = way.form, way.image
        if key not in self._scores:
            scorer = self.scorer(way)
            asked = self.questions(way)
            self._scores[key] = np.concatenate([scorer.score(*q) for q in asked])
        return self._scores[key]

    def early_scores(self, way: Way) -> np.ndarray:
        """Return the early head's scores, (queries, candidates) float32."""
        scorer, engine = self.scorer(way), way.form.engines["rerank_early"]
        scores = []
        for reference, (text,), rows, pruned in self.questions(way):
            state = scorer.reranker.query(text, scorer.rows.decode(reference[0]), truncate=True)
            given = {**state, "tokens": rows[0]["codes"], "scales": rows[0]["scales"]}
            found = engine.run({spec.name: given[spec.name] for spec in engine.inputs})
            scores.append(found["scores"] + self.settings.prune_weight * pruned[0])
        return np.stack(scores)

    def questions(self, way: Way) -> Iterator[Question]:
        """Yield what a scorer takes for each query."""
        split, rows = self.calibration.split, self._stored(way)
        for number, places, near in zip(self._order, self._candidates, self._near, strict=True):
            query = split.queries[number]
            reference = rows[[self._place[query.reference]]]
            yield reference, [query.text], rows[places][None], near[None]

    def scorer(self, way: Way, settings: RerankSettings | None = None) -> RuntimeScorer:
        """Return what serves the way, as the runtime would."""
        if settings is None:
            places, width = way.image.engine.outputs[0].shape[1:]
            stored = "int8" if way.form.takes_codes else "fp16"
            settings = replace(self.settings, places=places, width=width, token_precision=stored)
        return RuntimeScorer(
            Reranker(
                settings=settings,
                fingerprint="of this build",
                preprocess=self.graphs.config.preprocess,
                tokenizer=self.graphs.tokenizer(),
                engines={**way.form.engines, "rerank_image": way.image.engine},
            )
        )

    @cached_property
    def _place(self) -> dict[str, int]:
        return {picture: k for k, picture in enumerate(self.calibration.split.pictures)}

    @cached_property
    def _columns(self) -> list[np.ndarray]:
        """The candidates of each block's queries, as columns of its scores."""
        split = self.calibration.split
        return [best_columns(b, Columns.of(b, split), self.count) for b in self._pruned]

    @cached_property
    def _near(self) -> np.ndarray:
        """The inner products of each query's candidates, (queries, candidates)."""
        parts = zip(self._pruned, self._columns, strict=True)
        return np.concatenate([np.take_along_axis(b.scores, found, 1) for b, found in parts])

    @cached_property
    def _order(self) -> list[int]:
        return [int(k) for block in self._pruned for k in block.queries]

    @cached_property
    def _candidates(self) -> np.ndarray:
        """The place of each query's candidates among all pictures, (queries, candidates)."""
        galleries = self.calibration.split.galleries
        parts = []
        for block, columns in zip(self._pruned, self._columns, strict=True):
            gallery = np.asarray([self._place[i] for i in galleries[block.group]])
            parts.append(gallery[columns])
        return np.concatenate(parts)

    def _stored(self, way: Way) -> np.ndarray:
        scorer = self.scorer(way)
        key = way.image, scorer.rows.precision
        if key not in self._rows:
            split, dataset = self.calibration.split, self.calibration.dataset
            self._rows[key] = scorer.read(dataset.paths(split.pictures))
        return self._rows[key]

    def _raised(self, scores: np.ndarray) -> Iterator[Scored]:
        start = 0
        for block, columns in zip(self._pruned, self._columns, strict=True):
            raised = block.scores.copy()
            raise_columns(raised, columns, scores[start : start + len(raised)])
            start += len(raised)
            yield replace(block, scores=raised)


def _centred(scores: np.ndarray) -> np.ndarray:
    """Return each query's scores less their mean, at unit length: what matters is their order."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
