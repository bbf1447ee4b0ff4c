"""NVIDIA hardware, played by files and by a driver of three GPUs."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from cir_rt import nvidia
from cir_rt.errors import BackendMissing

NAMES = [(b"NVIDIA H200", 9, 0), (b"NVIDIA GeForce RTX 5090", 12, 0)]


class Driver:
    """The driver's calls; status 100 stands for a device that does not answer."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = number
        return self.status

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        assert size == len(name)
        name.value = NAMES[device.value][0]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = {75: NAMES[device.value][1], 76: NAMES[device.value][2]}[attribute]
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        size._obj.value = 3 << 40
        return 0


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr(nvidia, "probe", lambda: len(NAMES))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(nvidia, "_ROOT", tmp_path)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver())
    found = nvidia.gpus()
    assert [(gpu.name, gpu.capability) for gpu in found] == [
        ("NVIDIA H200", "sm_90"),
        ("NVIDIA GeForce RTX 5090", "sm_120"),
    ]
    assert found[0].memory_bytes == 3 << 40


def test_a_gpu_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver(status=100))
    with pytest.raises(BackendMissing, match=r"cuda:0 does not answer \(CUDA error 100\)"):
        nvidia.gpus()


def test_the_drivers_version(root: Path) -> None:
    assert nvidia.driver_version() is None
    told = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
    write(root, "proc/driver/nvidia/version", told + "GCC version:  gcc version 12.3.0\n")
    assert nvidia.driver_version() == "580.65.06"


def test_a_jetson(root: Path) -> None:
    assert nvidia.jetson() is None
    write(root, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n")
    board = nvidia.jetson()
    assert (board.model, board.linux, board.jetpack, board.tensorrt) == (
        *("Jetson", "36.4.3", "6"),
        None,
    )
    write(root, "proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    entries = [
        "Package: libnvinfer-bin\nStatus: install ok installed\nVersion: 9.9.9",
        "Package: libnvinfer10\nStatus: install ok installed\nVersion: 10.3.0.30-1+cuda12.5",
        "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77",
    ]
    write(root, "var/lib/dpkg/status", "\n\n".join(entries))
    assert nvidia.jetson() == nvidia.Jetson(
        model="NVIDIA Jetson AGX Orin Developer Kit",
        linux="36.4.3",
        jetpack="6.2",
        tensorrt="10.3.0.30",
    )


def test_a_jetson_of_another_day(root: Path) -> None:
    write(root, "etc/nv_tegra_release", "# R41 (release), REVISION: 1.0, GCID: 1\n")
    assert nvidia.jetson().jetpack == "unknown"
