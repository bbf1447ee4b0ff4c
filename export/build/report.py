"""What a build made, and what it was measured at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cir_rt.calibration.gate import Duel, Gate
from cir_rt.config import to_dict
from cir_rt.export.build.frontier import Point
from cir_rt.export.build.options import BuildOptions
from cir_rt.export.build.reranker.run import BuiltReranker


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """A bundle's facts, as `build-engine` prints them and the manifest keeps them."""

    bundle: Path
    options: BuildOptions
    precisions: dict[str, str]
    size_bytes: int
    seconds: float
    cosine_min: float
    recall_before: dict[str, float]
    recall_after: dict[str, float]
    recall_mixed: dict[str, float]  # built queries against an FP32 gallery
    agreement: float  # percent of FP32's top 10 that is found again
    gates: tuple[Gate, ...]
    latency: Duel | None  # None where the target is not here
    rerank: dict[str, Any] | None = None  # what the re-ranker was measured at, where there is one
    frontier: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def joined(self, built: BuiltReranker) -> BuildReport:
        """Return the report with what the re-ranker's part of the build found."""
        return replace(
            self,
            precisions={**self.precisions, **built.precisions},
            gates=(*self.gates, *built.gates),
            rerank=built.quality,
            frontier=[*self.frontier, *built.frontier],
            notes=[*self.notes, *built.notes],
        )

    def quality(self) -> dict[str, Any]:
        """Return what was measured, by the names that the manifest gives it."""
        return {
            "cosine_min": round(self.cosine_min, 5),
            "recall_before": self.recall_before,
            "recall_after": self.recall_after,
            "recall_mixed": self.recall_mixed,
            "agreement_top10": round(self.agreement, 2),
            "latency_ms": self.latency_ms(),
            "gates": [
                {
                    "what": gate.what,
                    "measured": round(gate.measured, 5),
                    "limit": round(gate.limit, 5),
                    "passed": gate.passed,
                }
                for gate in self.gates
            ],
            "frontier": [to_dict(point) for point in self.frontier],
            **({"rerank": self.rerank} if self.rerank else {}),
        }

    def latency_ms(self) -> dict[str, float | None]:
        """Return one query's milliseconds through the engines, before and after."""
        if self.latency is None:
            return {"before": None, "after": None}
        return {
            "before": round(self.latency.before_ms, 3),
            "after": round(self.latency.after_ms, 3),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `cir-rt build-engine --json`."""
        return {
            "bundle": str(self.bundle),
            "backend": self.options.backend,
            "device": self.options.device,
            "precision": self.options.precision,
            "precisions": self.precisions,
            "size_bytes": self.size_bytes,
            "seconds": round(self.seconds, 2),
            "quality": self.quality(),
            "latency_ms": self.latency_ms(),
        }
