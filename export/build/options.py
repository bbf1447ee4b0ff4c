"""What `cir-rt build-engine` may be told."""

from __future__ import annotations

from dataclasses import dataclass

from cir_rt.errors import BackendMissing, UsageError
from cir_rt.export.build.backends import BACKENDS


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Target, precision and limits of one build.

    Raises BackendMissing for a backend or device that is not in the table, UsageError for a
    precision that the backend does not know.
    """

    backend: str = "onnxruntime"
    device: str = ""  # the backend's first unless said
    precision: str = "auto"
    max_recall_drop: float = 0.5  # points
    min_cosine: float = 0.98  # mean over the held-back inputs of each role
    min_agreement: float = 90.0  # percent of FP32's top 10, where no query has a right answer
    prune_weight: float = 0.0  # what inner products count for in a re-ranker's scores
    tokens: int = 65  # most that a gallery keeps of a picture for re-ranking; more are merged
    keep_slower: bool = False
    threads: int | None = None
    arch: tuple[str, ...] = ()  # sm_89: GPUs that are not here, for a backend that can

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            known = ", ".join(BACKENDS)
            raise BackendMissing(f"backend '{self.backend}' is not known. Expected: {known}.")
        row = BACKENDS[self.backend]
        if not self.device:
            object.__setattr__(self, "device", row.devices[0])
        if self.arch and row.devices == ("cpu",):
            raise UsageError(f"backend '{self.backend}' builds for CPUs here. Leave --arch out.")
        if self.device.split(":")[0] not in row.devices:
            known = ", ".join(row.devices)
            raise BackendMissing(f"device '{self.device}' cannot be built for. Expected: {known}.")
        precisions = (*row.precisions, "auto")
        if self.precision not in precisions:
            raise UsageError(
                f"precision '{self.precision}' is not known. Expected: {', '.join(precisions)}."
            )
