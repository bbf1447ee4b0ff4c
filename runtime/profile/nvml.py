"""A GPU's energy and power by NVML, the library that comes with the driver; needs no package."""

from __future__ import annotations

import ctypes
from typing import Any

from cir_rt.errors import BackendMissing, DeviceError
from cir_rt.nvidia import pci_bus_id

_LIBRARY = "libnvidia-ml.so.1"


class Nvml:
    """One GPU, by CUDA's number.

    NVML numbers GPUs by slot and CUDA by speed, so that it is found by its place on the bus.
    Functions: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
    """

    def __init__(self, number: int) -> None:
        """Find the GPU. Raises BackendMissing without NVML, or where it knows no such GPU."""
        bus = pci_bus_id(number)
        try:
            self._library: Any = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise BackendMissing(
                f"NVML is not here ({_LIBRARY} is not found). It comes with NVIDIA's driver."
            ) from error
        self._gpu = ctypes.c_void_p()
        self.name = f"cuda:{number} ({bus})"
        status = self._library.nvmlInit_v2() or self._library.nvmlDeviceGetHandleByPciBusId_v2(
            bus.encode(), ctypes.byref(self._gpu)
        )
        if status:
            raise BackendMissing(f"NVML does not know {self.name} (NVML error {status}).")

    @property
    def counts_energy(self) -> bool:
        """Whether the GPU counts its energy itself, as those since Volta do."""
        return not self._library.nvmlDeviceGetTotalEnergyConsumption(
            self._gpu, ctypes.byref(ctypes.c_ulonglong())
        )

    def joules(self) -> float:
        """Return the energy since the driver was loaded. Raises DeviceError."""
        millijoules = ctypes.c_ulonglong()
        self._read("nvmlDeviceGetTotalEnergyConsumption", millijoules)
        return millijoules.value / 1000

    def watts(self) -> float:
        """Return the power that the GPU draws; newer ones average it over a second.

        Raises DeviceError.
        """
        milliwatts = ctypes.c_uint()
        self._read("nvmlDeviceGetPowerUsage", milliwatts)
        return milliwatts.value / 1000

    def _read(self, function: str, value: Any) -> None:
        status = getattr(self._library, function)(self._gpu, ctypes.byref(value))
        if status:
            raise DeviceError(f"{function}: {self.name} does not tell (NVML error {status}).")
