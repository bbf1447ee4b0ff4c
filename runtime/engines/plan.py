"""A compiled plan: what is known of it, and whether it may be loaded here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cir_rt.engines.protocol import TensorSpec
from cir_rt.errors import BundleError, EngineMismatch

HARDWARE = ("none", "ampere_plus", "same_compute_capability")  # what else a plan runs on

_JETSONS = ("sm_87", "sm_110")


@dataclass(frozen=True, kw_only=True)
class Range:
    """The sizes that a free dimension may take, and the one that a plan is tuned for."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise ValueError(
                f"expected 1 <= minimum <= optimum <= maximum, got {self.minimum}, "
                f"{self.optimum}, {self.maximum}"
            )


Profile = Mapping[str, Range]  # the range of each free dimension by its name


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The facts of one plan, as the manifest keeps them."""

    file: str
    sha256: str
    package: str  # as pip calls it
    version: str  # of the package; a plan fits no other
    capabilities: tuple[str, ...]  # sm_89: the GPUs that it runs on
    hardware: str = "none"
    version_compatible: bool = False
    profiles: tuple[Profile, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    graph_sha256: str = ""
    layers: Mapping[str, int] = field(default_factory=dict)  # by the type of their output
    seconds: float = 0.0


def is_ampere_plus(capability: str) -> bool:
    """Tell whether a GPU is one of those that `ampere_plus` stands for: sm_80 on, but no Jetson.

    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html
    """
    return int(capability.removeprefix("sm_")) >= 80 and capability not in _JETSONS


def check(plan: Plan, title: str, version: str, capability: str) -> None:
    """Raise EngineMismatch where the plan is of another TensorRT or GPU than those at hand.

    `title` is the package by its maker's name, `version` its version here and `capability` this
    GPU's: sm_89.
    """
    if _version_fits(plan, version) and _capability_fits(plan, capability):
        return
    raise EngineMismatch(
        f"plan built for {', '.join(plan.capabilities)} with {title} {plan.version}; this machine "
        f"is {capability} with {title} {version}.\n"
        f"Rebuild it here:  cir-rt build-engine MODEL --backend {plan.package} --out BUNDLE"
    )


def read(path: Path, plan: Plan) -> bytes:
    """Return the plan's bytes where they are those that the manifest vouches for.

    Loading a plan runs code from it, so nothing else may be loaded. Raises BundleError.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}).") from error
    found = hashlib.sha256(content).hexdigest()
    if found != plan.sha256:
        raise BundleError(
            f"{path}: altered, its sha256 is {found[:12]}, the manifest vouches for "
            f"{plan.sha256[:12]}. Rebuild it:  cir-rt build-engine MODEL --backend {plan.package} "
            "--out BUNDLE"
        )
    return content


def _version_fits(plan: Plan, version: str) -> bool:
    """Tell whether the version is the plan's or, for a compatible plan, a later one of its major.

    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html
    """
    if version == plan.version or not plan.version_compatible:
        return version == plan.version
    here, built = ([int(n) for n in v.split(".")] for v in (version, plan.version))
    return here[0] == built[0] and here >= built


def _capability_fits(plan: Plan, capability: str) -> bool:
    if plan.hardware == "ampere_plus":
        return is_ampere_plus(capability)
    return capability in plan.capabilities
