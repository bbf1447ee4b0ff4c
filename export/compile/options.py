"""What the compiler may be told, and which GPUs a plan can be built for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from cir_rt.engines.plan import HARDWARE, Profile, is_ampere_plus
from cir_rt.engines.tensorrt_packages import PACKAGES, Package
from cir_rt.errors import BackendMissing, UsageError
from cir_rt.kernels.cuda import Device

# Compute capabilities by the name that nvcc and `--arch` give them, and where they are found.
GPUS = {
    "sm_75": "T4, RTX 20",
    "sm_80": "A100",
    "sm_86": "A10, RTX 30",
    "sm_87": "Jetson Orin",
    "sm_89": "L4, L40, RTX 40",
    "sm_90": "H100, H200",
    "sm_100": "B200",
    "sm_103": "B300",
    "sm_110": "Jetson Thor",
    "sm_120": "RTX 50, RTX PRO",
    "sm_121": "DGX Spark",
}


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """How a graph becomes a plan. Raises UsageError or BackendMissing for what cannot be."""

    package: str = "tensorrt"
    arch: tuple[str, ...] = ()  # sm_89; none: the GPU at hand, or all that can be served
    profiles: tuple[Profile, ...] = ()  # a range for each free dimension, tuned bucket by bucket
    level: int = 3  # builder optimization, 0 to 5: longer builds, faster plans
    workspace_mb: int | None = None  # scratch memory of a layer; all of the GPU's unless said
    tf32: bool = False  # products of FP32 in TF32's 10 bits
    version_compatible: bool = False  # runs on later versions of the same major
    hardware: str = "none"  # ampere_plus: on any GPU from sm_80 on, at some cost in speed
    detailed: bool = False  # the inspector shows each layer's tactic, and so does the plan

    def __post_init__(self) -> None:
        if self.package not in PACKAGES:
            known = ", ".join(PACKAGES)
            raise BackendMissing(f"package '{self.package}' is not known. Expected: {known}.")
        if not 0 <= self.level <= 5:
            raise UsageError(f"level {self.level}. Expected 0 to 5.")
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise UsageError(f"workspace_mb {self.workspace_mb}. Expected 1 or more.")
        if self.hardware not in HARDWARE:
            known = ", ".join(HARDWARE)
            raise UsageError(f"hardware '{self.hardware}' is not known. Expected: {known}.")
        package = PACKAGES[self.package]
        if package.cross_builds and self.hardware != "none":
            raise UsageError(
                f"hardware '{self.hardware}' is TensorRT's own. {package.title} plans run on every "
                "GPU that --arch names."
            )
        if package.cross_builds and self.version_compatible:
            raise UsageError(
                f"version_compatible is TensorRT's own: {package.title} has no lean runtime to put "
                "into a plan. Leave it out, and rebuild after an upgrade."
            )
        for name in self.arch:
            _check_arch(name, package)


def capabilities(options: CompileOptions) -> tuple[str, ...]:
    """Return the GPUs to build for.

    Raises BackendMissing where the GPU must be at hand and is not, or is another one.
    """
    package = PACKAGES[options.package]
    if package.cross_builds:
        return options.arch or package.capabilities
    gpu = Device()  # first: without a driver TensorRT would crash
    here = gpu.capability
    gpu.close()
    if others := [name for name in options.arch if name != here]:
        raise BackendMissing(
            f"{package.title} builds for the GPU at hand alone, {here} ({gpu.name}); asked for "
            f"{_told(others)}. Build there:  cir-rt build-engine GRAPHS --backend {package.name}"
        )
    if options.hardware == "ampere_plus" and not is_ampere_plus(here):
        raise UsageError(
            f"hardware 'ampere_plus' is for desktop and datacenter GPUs from sm_80 on; this one is "
            f"{_told([here])}. Leave it out: the plan runs on GPUs like this one."
        )
    return (here,)


def _check_arch(name: str, package: Package) -> None:
    """Raise UsageError for a GPU nobody knows, BackendMissing for one of the other package."""
    if name not in GPUS:
        near = difflib.get_close_matches(name, GPUS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"arch '{name}' is not known.{hint} Expected: {', '.join(GPUS)}.")
    if package.capabilities and name not in package.capabilities:
        raise BackendMissing(
            f"{package.title} does not serve {_told([name])}: it serves "
            f"{', '.join(package.capabilities)}. TensorRT itself does, on that machine:  "
            "cir-rt build-engine GRAPHS --backend tensorrt"
        )


def _told(names: Sequence[str]) -> str:
    return ", ".join(f"{name} ({GPUS.get(name, 'not known')})" for name in names)
