"""A GPU played on host memory, below the CUDA seam: the driver, pycuda and cuda.bindings.

Addresses are real host addresses. Streams are queues that run nothing until somebody waits, so a
result that is read too early is wrong here too. Memory that was freed, a context that is not
current and a capture that breaks the rules are refused. This shows that the calls and their order
are right; it is not a run on a GPU.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cir_rt.kernels import cuda


class Status(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


Work = Callable[[], None]


@dataclass(eq=False)
class FakeStream:
    handle: int
    queue: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None  # while it captures
    capturer: int = 0  # the thread that does: others may allocate meanwhile

    def add(self, work: Work) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def drain(self) -> None:
        assert self.captured is None, "a stream that captures cannot be waited for"
        while self.queue:
            self.queue.pop(0)()


@dataclass(eq=False)
class Mark:
    """A point on a stream."""

    stream: FakeStream | None = None  # None: never recorded, so there is nothing to wait for
    reached: bool = False

    def reach(self) -> None:
        self.reached = True

    def wait(self) -> None:
        while self.stream is not None and not self.reached:
            self.stream.queue.pop(0)()


@dataclass(eq=False)
class FakeEvent:
    mark: Mark = field(default_factory=Mark)


class FakeGpu:
    """One GPU with its primary context; `install` puts it under the seam."""

    def __init__(
        self, *, capability: str = "sm_89", name: str = "Fake GPU", count: int = 1
    ) -> None:
        self.capability, self.name, self.count = capability, name, count
        self.streams: dict[int, FakeStream] = {}
        self.live: dict[int, np.ndarray] = {}  # device memory by its address
        self.pinned: list[np.ndarray] = []
        self.allocated = 0
        self.launches = 0  # of graphs
        self._current = threading.local()
        self._handles = itertools.count(0x1000, 8)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be the GPU that the seam finds."""
        modules = {"pycuda.driver": self._pycuda(), "cuda.bindings.driver": self._bindings()}
        for full, module in modules.items():
            parts = full.split(".")
            for k in range(1, len(parts)):
                package = ModuleType(".".join(parts[:k]))
                package.__path__ = []
                monkeypatch.setitem(sys.modules, package.__name__, package)
            monkeypatch.setitem(sys.modules, full, module)
            parent = sys.modules[full.rpartition(".")[0]]
            setattr(parent, parts[-1], module)
        monkeypatch.setattr(cuda, "_driver", self._driver)

    def stream(self) -> FakeStream:
        """Make a stream."""
        handle = next(self._handles)
        self.streams[handle] = FakeStream(handle)
        return self.streams[handle]

    def array(self, values: np.ndarray, stream: int | None = None) -> cuda.DeviceArray:
        """Return a copy in device memory."""
        dense = np.ascontiguousarray(values)
        allocation = self._allocate(max(1, dense.nbytes), checked=False)
        allocation.memory[: dense.nbytes] = dense.reshape(-1).view(np.uint8)
        buffer = cuda.DeviceBuffer(allocation, dense.nbytes)
        return cuda.DeviceArray(buffer, dense.shape, dense.dtype, stream)

    def fetch(self, array: Any) -> np.ndarray:
        """Return what a device array holds now, without waiting for anything."""
        if isinstance(array, np.ndarray):
            return array
        facts = array.__cuda_array_interface__
        return self.at(facts["data"][0], facts["shape"], np.dtype(facts["typestr"])).copy()

    def at(self, address: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Show device memory as an array. Raises AssertionError where none is live."""
        size = int(np.prod(shape)) * dtype.itemsize
        assert self.is_device(address, size), f"{size} bytes at {address:#x} are no live memory"
        return _memory(address, size).view(dtype).reshape(shape)

    def is_device(self, address: int, size: int = 1) -> bool:
        return any(
            a <= address and address + size <= a + len(m) for a, m in list(self.live.items())
        )

    def require_current(self) -> None:
        assert getattr(self._current, "depth", 0) > 0, "the primary context is not current"

    # What ctypes finds in libcuda.

    def _driver(self) -> Any:
        def count(pointer: Any) -> int:
            pointer._obj.value = self.count
            return 0

        return SimpleNamespace(cuInit=lambda flags: 0, cuDeviceGetCount=count)

    # pycuda.driver, as far as the seam goes.

    def _pycuda(self) -> ModuleType:
        gpu, module = self, ModuleType("pycuda.driver")

        class Context:
            def push(self) -> None:
                gpu._current.depth = getattr(gpu._current, "depth", 0) + 1

            @staticmethod
            def pop() -> None:
                gpu.require_current()
                gpu._current.depth -= 1

        class Device:
            def __init__(self, index: int) -> None:
                assert 0 <= index < gpu.count

            def compute_capability(self) -> tuple[int, int]:
                number = int(gpu.capability.removeprefix("sm_"))
                return divmod(number, 10)

            def name(self) -> str:
                return gpu.name

            def retain_primary_context(self) -> Context:
                return Context()

        def pagelocked_empty(shape: int, dtype: Any) -> np.ndarray:
            gpu.require_current()
            gpu.pinned.append(np.full(shape, 0xAB, dtype))
            return gpu.pinned[-1]

        def new_stream() -> SimpleNamespace:
            gpu.require_current()
            return SimpleNamespace(handle=gpu.stream().handle)

        module.init = lambda: None  # type: ignore[attr-defined]
        module.Context, module.Device = Context, Device  # type: ignore[attr-defined]
        module.MemoryError = type("MemoryError", (Exception,), {})  # type: ignore[attr-defined]
        module.mem_alloc = self._allocate  # type: ignore[attr-defined]
        module.pagelocked_empty = pagelocked_empty  # type: ignore[attr-defined]
        module.Stream = new_stream  # type: ignore[attr-defined]
        return module

    def _allocate(self, size: int, checked: bool = True) -> Any:
        if checked:
            self.require_current()
            own = [s for s in list(self.streams.values()) if s.capturer == threading.get_ident()]
            assert not own, "memory was allocated during a capture"
        self.allocated += 1
        return _Allocation(self, size)

    # cuda.bindings.driver, as far as the seam goes. Each call answers (status, values…).

    def _bindings(self) -> ModuleType:
        module = ModuleType("cuda.bindings.driver")
        module.CUstreamCaptureMode = enum.IntEnum(  # type: ignore[attr-defined]
            "CUstreamCaptureMode",
            {"CU_STREAM_CAPTURE_MODE_GLOBAL": 0, "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1},
        )
        for name in dir(self):
            if name.startswith("cu"):
                setattr(module, name, getattr(self, name))
        return module

    def cuMemcpyAsync(self, target: int, source: int, size: int, stream: int) -> tuple[Any, ...]:
        self.require_current()
        for address in (target, source):
            known = self.is_device(address, size) or any(
                p.ctypes.data <= address and address + size <= p.ctypes.data + p.nbytes
                for p in self.pinned
            )
            assert known, f"{address:#x} is neither on the GPU nor page-locked"
        self.streams[stream].add(lambda: ctypes.memmove(target, source, size) and None)
        return (Status.CUDA_SUCCESS,)

    def cuStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        self.require_current()
        self.streams[stream].drain()
        return (Status.CUDA_SUCCESS,)

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        self.require_current()
        assert not self.streams[stream].queue, "warm up and wait before a capture"
        self.streams[stream].captured = []
        self.streams[stream].capturer = threading.get_ident()
        return (Status.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        work, self.streams[stream].captured = self.streams[stream].captured, None
        self.streams[stream].capturer = 0
        return (Status.CUDA_SUCCESS, work)

    def cuGraphInstantiate(self, graph: list[Work], flags: int) -> tuple[Any, ...]:
        return (Status.CUDA_SUCCESS, list(graph))

    def cuGraphDestroy(self, graph: list[Work]) -> tuple[Any, ...]:
        graph.clear()
        return (Status.CUDA_SUCCESS,)

    def cuGraphLaunch(self, graph: list[Work], stream: int) -> tuple[Any, ...]:
        self.require_current()
        assert graph, "the graph was destroyed"
        self.launches += 1
        for work in graph:
            self.streams[stream].add(work)
        return (Status.CUDA_SUCCESS,)

    def cuGraphExecDestroy(self, graph: list[Work]) -> tuple[Any, ...]:
        graph.clear()
        return (Status.CUDA_SUCCESS,)

    def cuEventCreate(self, flags: int) -> tuple[Any, ...]:
        self.require_current()
        return (Status.CUDA_SUCCESS, FakeEvent())

    def cuEventRecord(self, event: FakeEvent, stream: int) -> tuple[Any, ...]:
        event.mark = Mark(self.streams[stream])
        self.streams[stream].add(event.mark.reach)
        return (Status.CUDA_SUCCESS,)

    def cuEventSynchronize(self, event: FakeEvent) -> tuple[Any, ...]:
        event.mark.wait()
        return (Status.CUDA_SUCCESS,)

    def cuEventElapsedTime(self, start: FakeEvent, end: FakeEvent) -> tuple[Any, ...]:
        assert start.mark.reached
        assert end.mark.reached
        return (Status.CUDA_SUCCESS, 1.5)

    def cuEventDestroy(self, event: FakeEvent) -> tuple[Any, ...]:
        return (Status.CUDA_SUCCESS,)

    def cuStreamWaitEvent(self, stream: int, event: FakeEvent, flags: int) -> tuple[Any, ...]:
        self.require_current()
        self.streams[stream].add(event.mark.wait)
        return (Status.CUDA_SUCCESS,)


class _Allocation:
    """Device memory, filled with what no tensor holds."""

    def __init__(self, gpu: FakeGpu, size: int) -> None:
        self.gpu, self.memory = gpu, np.full(size, 0xCD, np.uint8)
        gpu.live[int(self)] = self.memory

    def __int__(self) -> int:
        return self.memory.ctypes.data

    def free(self) -> None:
        del self.gpu.live[int(self)]


def _memory(address: int, size: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)
