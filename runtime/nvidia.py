"""NVIDIA hardware as the system itself tells of it; needs no package."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

from cir_rt.errors import BackendMissing
from cir_rt.kernels.cuda import probe

_ROOT = Path("/")
_LIBRARY = "libcuda.so.1"
# CUdevice_attribute of https://docs.nvidia.com/cuda/cuda-driver-api/
_MAJOR, _MINOR = 75, 76
# Jetson Linux -> JetPack, https://developer.nvidia.com/embedded/jetpack-archive
_JETPACKS = {"35": "5", "36": "6", "38": "7"}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU that the driver serves."""

    name: str
    capability: str  # sm_90
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Jetson:
    """A Jetson and what its JetPack brought along."""

    model: str
    linux: str  # Jetson Linux: 36.4
    jetpack: str
    tensorrt: str | None  # the library's version, whether Python sees it or not


def gpus() -> list[Gpu]:
    """Return the GPUs in the order of their numbers. Raises BackendMissing where there is none."""
    count = probe()
    driver = ctypes.CDLL(_LIBRARY)
    found = []
    for number in range(count):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        statuses = (
            driver.cuDeviceGet(ctypes.byref(device), number),
            driver.cuDeviceGetName(name, len(name), device),
            driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
            driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
            driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
        )
        if any(statuses):
            raise BackendMissing(f"cuda:{number} does not answer (CUDA error {max(statuses)}).")
        found.append(
            Gpu(
                name=name.value.decode(),
                capability=f"sm_{major.value}{minor.value}",
                memory_bytes=memory.value,
            )
        )
    return found


def pci_bus_id(number: int) -> str:
    """Return where a GPU sits, as 0000:3b:00.0. Raises BackendMissing where there is none."""
    count = probe()
    driver = ctypes.CDLL(_LIBRARY)
    device, place = ctypes.c_int(), ctypes.create_string_buffer(32)
    status = driver.cuDeviceGet(ctypes.byref(device), number) or driver.cuDeviceGetPCIBusId(
        place, len(place), device
    )
    if status:
        raise BackendMissing(
            f"cuda:{number} does not answer (CUDA error {status}); the driver serves {count}."
        )
    return place.value.decode()


def driver_version() -> str | None:
    """Return the kernel driver's version, None where it does not say."""
    told = _read("proc/driver/nvidia/version")
    found = re.search(r"Kernel Module[^\n]*?\s(\d+(?:\.\d+)+)", told)
    return found[1] if found else None


def jetson() -> Jetson | None:
    """Return what this Jetson is, None on any other machine."""
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _read("etc/nv_tegra_release"))
    if release is None:
        return None
    packages = _read("var/lib/dpkg/status")
    jetpack = _debian_version(packages, "nvidia-jetpack")
    model = _read("proc/device-tree/model").rstrip("\0\n")
    return Jetson(
        model=model or "Jetson",
        linux=f"{release[1]}.{release[2]}",
        jetpack=jetpack or _JETPACKS.get(release[1], "unknown"),
        tensorrt=_debian_version(packages, r"libnvinfer\d+"),
    )


def _debian_version(status: str, package: str) -> str | None:
    """Return an installed Debian package's version without its revision: 10.3.0.30."""
    for entry in status.split("\n\n"):
        if re.search(rf"^Package: {package}$", entry, re.MULTILINE) and "installed" in entry:
            found = re.search(r"^Version: ([\d.]+)", entry, re.MULTILINE)
            return found[1] if found else None
    return None


def _read(name: str) -> str:
    try:
        return (_ROOT / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
