"""Joules: of a ramp that can be integrated by hand, of a made /sys, of a made NVML."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import pytest

from cir_rt import nvidia
from cir_rt.errors import BackendMissing, DeviceError
from cir_rt.profile import energy, nvml
from cir_rt.profile.energy import Counter, Sampler, find_meter
from cir_rt.profile.rails import board_power


class Ramp:
    """Watts that are twice the seconds, on a clock that goes on by itself at each look."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks = 0
        self.enough = threading.Event()

    def clock(self) -> float:
        self.now += 0.25
        return self.now

    def watts(self) -> float:
        self.looks += 1
        if self.looks == 10:
            self.enough.set()
        return 2 * self.now


def test_samples_are_integrated() -> None:
    ramp = Ramp()
    meter = Sampler("ramp", ramp.watts, interval_s=0.001, clock=ramp.clock)
    for _ in range(2):  # a meter may be used again
        ramp.enough.clear()
        ramp.looks = 0
        begun = ramp.now + 0.25
        meter.start()
        assert ramp.enough.wait(20)
        joules = meter.stop()
        assert ramp.looks >= 10
        assert joules == pytest.approx(ramp.now**2 - begun**2)  # trapezoids are exact here


def test_a_run_shorter_than_the_interval_counts_too() -> None:
    ramp = Ramp()
    meter = Sampler("ramp", ramp.watts, interval_s=60, clock=ramp.clock)
    meter.start()
    assert meter.stop() == pytest.approx(0.5**2 - 0.25**2)
    assert ramp.looks == 2


def test_a_reading_that_fails_is_told_at_the_end() -> None:
    asked = threading.Event()

    def watts() -> float:
        if threading.current_thread() is threading.main_thread():
            return 1.0
        asked.set()
        raise OSError("gone")

    meter = Sampler("broken", watts, interval_s=0.001)
    meter.start()
    assert asked.wait(20)
    with pytest.raises(OSError, match="gone"):
        meter.stop()


def test_a_counter_is_read_twice() -> None:
    counts = iter([100.0, 107.5])
    meter = Counter("counter", lambda: next(counts))
    meter.start()
    assert meter.stop() == 7.5


def monitor(root: Path, number: int, name: str, **files: object) -> Path:
    folder = root / f"sys/class/hwmon/hwmon{number}"
    folder.mkdir(parents=True)
    for file, value in {"name": name, **files}.items():
        (folder / file).write_text(f"{value}\n")
    return folder


def channel(number: int, label: str, millivolts: int, milliamperes: int) -> dict[str, object]:
    return {
        f"in{number}_label": label,
        f"in{number}_input": millivolts,
        f"curr{number}_input": milliamperes,
    }


def test_the_rail_that_feeds_the_board_is_the_sum(tmp_path: Path) -> None:
    monitor(tmp_path, 0, "tmp451", temp1_input=40000)
    rails = {
        **channel(1, "VDD_IN", 5000, 1200),
        **channel(2, "VDD_CPU_GPU_CV", 5000, 700),
        **channel(3, "VDD_SOC", 5000, 300),
        "in7_label": "sum of shunt voltages",
        "in7_input": 12,
    }
    folder = monitor(tmp_path, 1, "ina3221", **rails)
    power = board_power(tmp_path)
    assert power is not None
    assert power.rails == ("VDD_IN",)
    assert power.watts() == pytest.approx(6.0)
    (folder / "curr1_input").write_text("2400\n")
    assert power.watts() == pytest.approx(12.0)


def test_without_such_a_rail_all_are_summed(tmp_path: Path) -> None:
    monitor(
        tmp_path,
        3,
        "ina3221",
        **channel(1, "VDD_GPU_SOC", 19000, 100),
        **channel(2, "NC", 19000, 999),
        **channel(3, "VIN_SYS_5V0", 5000, 1000),
    )
    rails = {**channel(2, "VDDQ_VDD2_1V8AO", 5000, 200), **channel(7, "sum", 9, 9)}
    monitor(tmp_path, 4, "ina3221", **rails, in3_label="alone")
    power = board_power(tmp_path)
    assert power is not None
    assert power.rails == ("VDD_GPU_SOC", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
    assert power.watts() == pytest.approx(1.9 + 5.0 + 1.0)


def test_a_monitor_of_the_input_is_the_sum(tmp_path: Path) -> None:
    monitor(tmp_path, 0, "ina3221", **channel(1, "VDD_GPU", 12000, 1000))
    monitor(tmp_path, 1, "ina238", power1_input=31_500_000)
    power = board_power(tmp_path)
    assert power is not None
    assert power.rails == ("VIN",)
    assert power.watts() == pytest.approx(31.5)


def test_a_machine_without_rails_says_why_there_is_no_energy(tmp_path: Path) -> None:
    assert board_power(tmp_path) is None
    with pytest.raises(BackendMissing, match="the engines run on the CPU"):
        find_meter("cpu", tmp_path)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_jetson_measures_its_board(tmp_path: Path, device: str) -> None:
    monitor(tmp_path, 0, "ina3221", **channel(1, "VDD_IN", 10000, 1000))
    meter = find_meter(device, tmp_path)
    assert meter.name == "rails VDD_IN"
    meter.start()
    assert meter.stop() > 0


class Driver:
    """libcuda, of two GPUs."""

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = number
        return 0 if number < 2 else 101

    def cuDeviceGetPCIBusId(self, place: Any, size: int, device: Any) -> int:
        assert size == len(place)
        place.value = b"0000:%02x:00.0" % (7 - device.value)
        return 0


class Management:
    """NVML, which knows GPUs by their place."""

    def __init__(self, energy: int = 0, power: int = 0) -> None:
        self.statuses = energy, power

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus: bytes, gpu: Any) -> int:
        gpu._obj.value = int(bus[5:7], 16)
        return 0 if gpu._obj.value in (6, 7) else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: Any, millijoules: Any) -> int:
        millijoules._obj.value = 123_456 * gpu.value
        return self.statuses[0]

    def nvmlDeviceGetPowerUsage(self, gpu: Any, milliwatts: Any) -> int:
        milliwatts._obj.value = 70_500
        return self.statuses[1]


def install(monkeypatch: pytest.MonkeyPatch, management: Management | None) -> None:
    def load(name: str) -> Any:
        if "nvidia-ml" not in name:
            return Driver()
        if management is None:
            raise OSError(f"{name}: cannot open")
        return management

    monkeypatch.setattr(nvidia, "probe", lambda: 2)
    monkeypatch.setattr(ctypes, "CDLL", load)


def test_a_gpu_counts_its_own_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Management())
    meter = find_meter("cuda:1", tmp_path)
    assert isinstance(meter, Counter)
    assert meter.name == "cuda:1 (0000:06:00.0), its own counter"
    assert nvml.Nvml(1).joules() == pytest.approx(123.456 * 6)
    assert nvml.Nvml(1).watts() == 70.5


def test_an_older_gpu_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Management(energy=3))
    meter = find_meter("cuda", tmp_path)
    assert isinstance(meter, Sampler)
    assert meter.name == "cuda:0 (0000:07:00.0), its power summed up"
    with pytest.raises(DeviceError, match=r"cuda:0 .*NVML error 3"):
        nvml.Nvml(0).joules()


def test_no_management_library_and_no_such_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, None)
    with pytest.raises(BackendMissing, match=r"libnvidia-ml\.so\.1 is not found"):
        energy.find_meter("cuda", tmp_path)
    with pytest.raises(BackendMissing, match=r"cuda:2 does not answer .* serves 2"):
        energy.find_meter("cuda:2", tmp_path)
