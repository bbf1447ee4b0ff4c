"""What a set of engines is worth beside FP32: recall or agreement, and cosine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

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
from cir_rt.compose import Composer, EngineComposer
from cir_rt.encoder import Encoder
from cir_rt.export.build.calibration_set import CalibrationSet
from cir_rt.export.build.candidates import Candidate
from cir_rt.export.build.options import BuildOptions
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.evaluate import Scored, Vectors, products, score

Recall = dict[str, float]
Chosen = Mapping[str, Candidate]  # role -> candidate


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A set of engines on the held-back queries."""

    recall: Recall  # on a gallery of the same engines; empty without labels
    recall_mixed: Recall  # on an FP32 gallery
    agreement: float  # percent of FP32's top 10 found again
    cosines: Mapping[str, Cosines]  # role -> agreement with FP32's vectors
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate is open."""
        return all(gate.passed for gate in self.gates)


class Judge:
    """Holds engines against the FP32 reference, on queries that no range was taken from."""

    def __init__(
        self,
        graphs: Checkpoint,
        composer: Composer,
        reference: Chosen,
        calibration: CalibrationSet,
        options: BuildOptions,
    ) -> None:
        self.composer = composer  # in FP32
        self.reference = reference
        self.calibration = calibration
        self.options = options
        self._preprocess = graphs.config.preprocess
        self._tokenizer = graphs.tokenizer()
        self._vectors_of: dict[Candidate, np.ndarray] = {}

    def verdict(self, chosen: Chosen) -> Verdict:
        """Encode the held-back queries and their gallery, and compare."""
        vectors, exact = self._vectors(chosen), self._exact
        queries, galleries = self._queries(chosen, vectors), (vectors.pictures, exact.pictures)
        recall, recall_mixed = (self._recall(queries, pictures) for pictures in galleries)
        agreement = min(self._agreement(queries, pictures) for pictures in galleries)
        near = {"image": cosines(exact.v, vectors.v)}
        if self._worded:
            near["text"] = cosines(exact.u, vectors.u)
            if "compose" in chosen:  # by itself, of what FP32 engines read
                near["compose"] = cosines(self._exact_queries, self._queries(chosen, exact))
        limit = self.options.max_recall_drop
        gates = [cosine_gate(c, self.options.min_cosine, role) for role, c in near.items()]
        if self.calibration.labelled:
            gates = [
                recall_gate(self.before, recall, limit, "quantized engines"),
                recall_gate(
                    self.before, recall_mixed, limit, "quantized queries on an FP32 gallery"
                ),
                *gates,
            ]
        else:
            least = self.options.min_agreement
            gates = [agreement_gate(agreement, least, "quantized engines"), *gates]
        return Verdict(
            recall=recall,
            recall_mixed=recall_mixed,
            agreement=agreement,
            cosines=near,
            gates=tuple(gates),
        )

    @cached_property
    def before(self) -> Recall:
        """Recall of the FP32 reference; empty without labels."""
        return self._recall(self._exact_queries, self._exact.pictures)

    def pruned(self) -> list[Scored]:
        """Return every held-back query's scores of the gallery, by the FP32 reference."""
        split = self.calibration.split
        return list(products(self._exact_queries, self._exact.pictures, split))

    def drop(self, verdict: Verdict) -> float:
        """Return the larger loss of both recalls, in points; without labels of agreement."""
        if not self.calibration.labelled:
            return 100 - verdict.agreement
        return max(recall_drop(self.before, r) for r in (verdict.recall, verdict.recall_mixed))

    @cached_property
    def _exact(self) -> Vectors:
        return self._vectors(self.reference)

    @cached_property
    def _exact_queries(self) -> np.ndarray:
        return self._queries(self.reference, self._exact)

    @cached_property
    def _references(self) -> list[int]:
        """The place of each query's own picture among all."""
        split = self.calibration.split
        row = {picture: k for k, picture in enumerate(split.pictures)}
        return [row[query.reference] for query in split.queries]

    @cached_property
    def _worded(self) -> bool:
        """Whether the queries say anything: a plain folder may come without captions."""
        return any(query.captions for query in self.calibration.split.queries)

    def _vectors(self, chosen: Chosen) -> Vectors:
        pictures = self._encoded(chosen["image"])
        v = pictures[self._references]
        u = self._encoded(chosen["text"]) if self._worded else np.zeros_like(v)
        return Vectors(v=v, u=u, pictures=pictures)

    def _encoded(self, candidate: Candidate) -> np.ndarray:
        """Return all pictures' vectors, or all captions', once for each candidate."""
        if candidate not in self._vectors_of:
            encoder = Encoder(
                preprocess=self._preprocess,
                tokenizer=self._tokenizer,
                image=candidate.engine,
                text=candidate.engine,
                compose=self.composer,
            )
            split = self.calibration.split
            if candidate.role == "image":
                found = encoder.encode_pictures(self.calibration.dataset.paths(split.pictures))
            else:
                found = encoder.encode_texts([query.text for query in split.queries])
            self._vectors_of[candidate] = found
        return self._vectors_of[candidate]

    def _recall(self, queries: np.ndarray, pictures: np.ndarray) -> Recall:
        if not self.calibration.labelled:
            return {}
        dataset, split = self.calibration.dataset, self.calibration.split
        return score(queries, pictures, dataset.name, split).recall

    def _agreement(self, queries: np.ndarray, pictures: np.ndarray) -> float:
        """Compare the best 10 of each query, its own reference left out."""
        return top_agreement(self._exact_scores, self._scores(queries, pictures))

    @cached_property
    def _exact_scores(self) -> np.ndarray:
        return self._scores(self._exact_queries, self._exact.pictures)

    def _scores(self, queries: np.ndarray, pictures: np.ndarray) -> np.ndarray:
        """Score every picture but its own reference for each query: (queries, pictures)."""
        scores = queries @ pictures.T
        scores[np.arange(len(scores)), self._references] = -np.inf
        return scores

    def _queries(self, chosen: Chosen, vectors: Vectors) -> np.ndarray:
        """Return composed queries, or the pictures alone where nobody says anything."""
        if not self._worded:
            return vectors.v
        composer = EngineComposer(chosen["compose"].engine) if "compose" in chosen else None
        return (composer or self.composer)(vectors.v, vectors.u)[0]
