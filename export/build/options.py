"""What `cir-rt build-engine` may be told."""

from __future__ import annotations

from dataclasses import dataclass

from cir_rt.engines.tensorrt_packages import PACKAGES
from cir_rt.errors import BackendMissing, UsageError
from cir_rt.export.build.backends import BACKENDS
from cir_rt.export.compile.options import CompileOptions


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Target, precision and limits of one build.

    Raises BackendMissing for a backend or device that is not in the table, UsageError for a
    precision that the backend does not know and for options that contradict each other.
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
    version_compatible: bool = False  # plans run on later versions of TensorRT's major too
    hardware: str = "none"  # what else plans run on, as `engines.plan.HARDWARE` names it

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            known = ", ".join(BACKENDS)
            raise BackendMissing(f"backend '{self.backend}' is not known. Expected: {known}.")
        rows = BACKENDS[self.backend]
        if not self.device:
            object.__setattr__(self, "device", next(iter(rows)))
        if self.kind not in rows:
            known = ", ".join(rows)
            raise BackendMissing(f"device '{self.device}' cannot be built for. Expected: {known}.")
        precisions = (*rows[self.kind].precisions, "auto")
        if self.precision not in precisions:
            raise UsageError(
                f"precision '{self.precision}' is not known. Expected: {', '.join(precisions)}."
            )
        if self.backend in PACKAGES:
            self.compiling()
        elif self.arch or self.version_compatible or self.hardware != "none":
            raise UsageError(
                f"backend '{self.backend}' makes no plans. Leave --arch, --version-compatible and "
                "--hardware out, or build with  --backend tensorrt"
            )
        if self.precision == "fp8" and self.hardware == "ampere_plus":
            raise UsageError(
                "FP8 needs sm_89 or newer, and hardware 'ampere_plus' means sm_80 too. Leave "
                "--hardware out, or take  --precision fp16"
            )

    @property
    def kind(self) -> str:
        """The kind of device: "cuda" of "cuda:1"."""
        return self.device.partition(":")[0]

    def compiling(self) -> CompileOptions:
        """Return what the compiler is told. Raises UsageError or BackendMissing."""
        return CompileOptions(
            package=self.backend,
            arch=self.arch,
            version_compatible=self.version_compatible,
            hardware=self.hardware,
        )
