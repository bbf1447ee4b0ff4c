"""What a profile measures, and for how long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cir_rt.errors import UsageError
from cir_rt.modes import MODES


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One of MLPerf Inference's ways to ask, with the figure that it is quoted by."""

    batch: int  # queries in a call, unless said
    metric: str


# https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc, "Scenarios"
SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "single-stream": Scenario(batch=1, metric="p90_ms"),
        "multi-stream": Scenario(batch=8, metric="p99_ms"),
        "server": Scenario(batch=1, metric="rate_qps"),
        "offline": Scenario(batch=32, metric="qps"),
    }
)
REFERENCES = ("picture", "id")


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """What is asked of a bundle, and how often. Raises UsageError for what cannot be measured."""

    scenario: str = "single-stream"
    batches: tuple[int, ...] = ()  # none: the scenario's own
    rerank: tuple[int, ...] = ()  # candidates; none: 0, and the re-ranker's own where there is one
    mode: str = "exact"  # of re-ranking
    k: int = 10
    runs: int = 200  # calls; in `server` the queries that arrive at each rate tried
    warmup: int = 20  # calls before them, not counted
    bound_ms: float = 100.0  # in `server`: an answer that comes later is a bad one
    reference: str = "picture"  # asked with a picture's bytes, or with its id in the gallery
    processes: int = 3  # fresh ones, for the cold start
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    index: str = "auto"

    def __post_init__(self) -> None:
        for name, known in (("scenario", SCENARIOS), ("mode", MODES), ("reference", REFERENCES)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} '{getattr(self, name)}'. Expected one of: {', '.join(known)}."
                )
        least = {"k": 1, "runs": 1, "warmup": 0, "processes": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise UsageError(f"{name} is {getattr(self, name)}. Expected {smallest} or more.")
        if not all(batch >= 1 for batch in self.batches):
            raise UsageError(f"batches {self.batches}. Expected 1 or more each.")
        if not all(count >= 0 for count in self.rerank):
            raise UsageError(f"rerank {self.rerank}. Expected 0 or more each.")
        if not (math.isfinite(self.bound_ms) and self.bound_ms > 0):
            raise UsageError(f"bound_ms is {self.bound_ms}. Expected more than 0.")
