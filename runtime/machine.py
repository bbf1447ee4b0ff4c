"""What this machine is: instruction set and versions, as bundles and reports record them."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

# Strongest first; INT8 products of those in EXACT_INT8 do not saturate.
_X86 = ("avx512_vnni", "avx_vnni", "amx_int8", "avx512f", "avx2")
_ARM = ("asimddp", "asimd")
EXACT_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")


@cache
def instruction_set() -> str:
    """Return the strongest known vector instruction set, or the architecture's name."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    for name in (*_X86, *_ARM):
        if name in flags:
            return name
    return platform.machine()


def is_arm() -> bool:
    """Tell whether this is an Arm machine, where symmetric INT8 is the faster form."""
    return platform.machine() in ("aarch64", "arm64")


def is_arm_set(name: str) -> bool:
    """Tell whether an instruction set, as `instruction_set` names it, is one of Arm's."""
    return name in (*_ARM, "aarch64", "arm64")


def versions(*packages: str) -> dict[str, str]:
    """Return Python's version and those of the packages that are installed."""
    from importlib import metadata  # slow, and no query asks

    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, object]:
    """Return what a recorded figure needs to be understood."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "instruction_set": instruction_set(),
        "versions": versions("cir-rt", "numpy", "onnxruntime", "torch", "Pillow"),
    }
