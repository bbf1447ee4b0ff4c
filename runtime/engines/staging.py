"""The way between host and GPU for one tensor."""

from __future__ import annotations

import math

import numpy as np

from cir_rt.kernels.cuda import Device, DeviceBuffer, Stream

_SMALLEST = 4096


class Slot:
    """Page-locked memory and as much on the GPU; both double when they must hold more."""

    def __init__(self, gpu: Device) -> None:
        self._gpu = gpu
        self._device: DeviceBuffer | None = None
        self._pinned = np.zeros(0, np.uint8)
        self._size = 0

    @property
    def address(self) -> int:
        """Where the tensor is on the GPU, until the next `reserve`."""
        assert self._device is not None
        return self._device.address

    def reserve(self, size_bytes: int) -> None:
        """Hold a tensor of this size from now on; no work on an earlier one may be under way."""
        if self._device is None or size_bytes > self._device.size_bytes:
            held = self._device.size_bytes if self._device else _SMALLEST
            capacity = max(held, 1 << (size_bytes - 1).bit_length())
            self.free()
            self._device = self._gpu.allocate(capacity)
            self._pinned = self._gpu.pinned(capacity)
        self._size = size_bytes

    def view(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Show the page-locked memory as the tensor."""
        size = math.prod(shape) * dtype.itemsize
        return self._pinned[:size].view(dtype).reshape(shape)

    def upload(self, stream: Stream) -> None:
        """Queue the copy to the GPU."""
        stream.copy(self.address, self._host, self._size)

    def download(self, stream: Stream) -> None:
        """Queue the copy to the host."""
        stream.copy(self._host, self.address, self._size)

    def free(self) -> None:
        """Free both; a second call does nothing."""
        if self._device is not None:
            self._device.free()
            self._device = None
        self._pinned = np.zeros(0, np.uint8)

    @property
    def _host(self) -> int:
        return int(self._pinned.__array_interface__["data"][0])
