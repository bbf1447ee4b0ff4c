"""A GPU's memory as an index holds it: arrays, and the copies between them and the host."""

from __future__ import annotations

import math

import numpy as np

from cir_rt.kernels.cuda import Device, DeviceArray, device_index

STAGED_BYTES = 4 << 20  # copied at once


class GpuMemory:
    """Arrays on one GPU, written and read by way of page-locked memory.

    Copies go through one stream and are waited for. Owned by one thread at a time; the device must
    be current for every call but `close`.
    """

    def __init__(self, device: str) -> None:
        """Take cuda or cuda:N. Raises BackendMissing without that GPU or the packages for it."""
        self.device = Device(device_index(device))
        self._arrays: list[DeviceArray] = []
        with self.device.current():
            self.stream = self.device.stream()
            self._staged = self.device.pinned(STAGED_BYTES)
        self._address = int(self._staged.__array_interface__["data"][0])

    def array(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """Return room for an array. Raises DeviceError where there is not enough."""
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        array = DeviceArray(self.device.allocate(max(1, size_bytes)), shape, dtype)
        self._arrays.append(array)
        return array

    def put(self, array: DeviceArray, values: np.ndarray, first: int = 0) -> DeviceArray:
        """Write values from row `first` on, and return the array as far as `values` has its shape.

        Raises AssertionError for another type, and where they do not fit.
        """
        dense = np.ascontiguousarray(values)
        place = first * math.prod(array.shape[1:]) * dense.itemsize
        assert dense.dtype == array.dtype
        assert place + dense.nbytes <= array.buffer.size_bytes
        raw = dense.reshape(-1).view(np.uint8)
        for start in range(0, len(raw), STAGED_BYTES):
            part = raw[start : start + STAGED_BYTES]
            self._staged[: len(part)] = part
            self.stream.copy(array.buffer.address + place + start, self._address, len(part))
            self.stream.synchronize()
        return DeviceArray(array.buffer, dense.shape, dense.dtype)

    def get(self, array: DeviceArray) -> np.ndarray:
        """Wait for what is queued, and return a copy of a small array."""
        size_bytes = math.prod(array.shape) * array.dtype.itemsize
        assert size_bytes <= STAGED_BYTES
        self.stream.copy(self._address, array.buffer.address, size_bytes)
        self.stream.synchronize()
        return self._staged[:size_bytes].view(array.dtype).reshape(array.shape).copy()

    def move(self, source: DeviceArray, target: DeviceArray) -> None:
        """Copy an array to the beginning of another, and free it."""
        size_bytes = math.prod(source.shape) * source.dtype.itemsize
        self.stream.copy(target.buffer.address, source.buffer.address, size_bytes)
        self.stream.synchronize()
        self.free(source)

    def free(self, array: DeviceArray) -> None:
        """Free an array that `array` returned."""
        array.buffer.free()
        self._arrays.remove(array)

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        if self._arrays:
            with self.device.current():
                for array in self._arrays:
                    array.buffer.free()
            self._arrays.clear()
        self.device.close()
