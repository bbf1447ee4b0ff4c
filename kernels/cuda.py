"""The CUDA seam: one GPU's primary context, and what lives in it.

Everything that touches a GPU goes through here. pycuda holds the context, the memory, streams,
events and modules; cuda.bindings orders work on streams by their handle, which may be a caller's,
and captures graphs, which pycuda cannot. Both are imported on use.

The primary context is shared with the other libraries of the process (TensorRT, ONNX Runtime,
faiss). It is current only within `with device.current():`, and so must it be for every call here.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from cir_rt.errors import BackendMissing, DeviceError

INSTALL = "pip install 'cir-rt[gpu]'"
_LIBRARY = "libcuda.so.1"


def probe() -> int:
    """Return how many GPUs the driver serves; needs no package.

    Raises BackendMissing where there is no driver or no GPU. Call it before any library that
    would crash without one.
    """
    try:
        driver = _driver()
    except OSError as error:
        raise BackendMissing(
            f"no NVIDIA driver here ({_LIBRARY} is not found). Expected an NVIDIA GPU and its "
            "driver; see what this machine can run:  cir-rt doctor"
        ) from error
    status, count = driver.cuInit(0), ctypes.c_int(0)
    if status == 0:
        status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        raise BackendMissing(
            f"the NVIDIA driver serves no GPU here (CUDA error {status}). Check:  nvidia-smi"
        )
    return count.value


def device_index(device: str) -> int:
    """Return N of "cuda:N", 0 of "cuda". Raises BackendMissing for another name."""
    found = re.fullmatch(r"cuda(?::(\d+))?", device)
    if not found:
        raise BackendMissing(f"device '{device}' is not a GPU. Expected one of: cuda, cuda:N.")
    return int(found[1] or 0)


class Device:
    """One GPU by its primary context, which is retained until `close`."""

    def __init__(self, index: int = 0) -> None:
        """Retain the primary context.

        Raises BackendMissing without a driver, that GPU, pycuda or cuda-bindings.
        """
        count = probe()
        if index >= count:
            raise BackendMissing(f"asked for cuda:{index}, the driver serves {count} GPUs, from 0.")
        self._pycuda, self._bindings = _pycuda(), _bindings()
        self._pycuda.init()
        gpu = self._pycuda.Device(index)
        major, minor = gpu.compute_capability()
        self.index = index
        self.name = str(gpu.name())
        self.capability = f"sm_{major}{minor}"
        self._context = gpu.retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current on this thread for the length of the block."""
        self._context.push()
        try:
            yield
        finally:
            self._pycuda.Context.pop()

    def allocate(self, size_bytes: int) -> DeviceBuffer:
        """Return memory on the GPU. Raises DeviceError where there is not enough."""
        try:
            return DeviceBuffer(self._pycuda.mem_alloc(size_bytes), size_bytes)
        except self._pycuda.MemoryError as error:
            raise DeviceError(f"{self}: no {size_bytes} bytes are free ({error}).") from error

    def pinned(self, size_bytes: int) -> np.ndarray:
        """Return page-locked memory on the host, which the GPU copies without a detour: uint8."""
        return self._pycuda.pagelocked_empty(size_bytes, np.uint8)

    def stream(self) -> Stream:
        """Return a new stream."""
        own = self._pycuda.Stream()
        return Stream(self._bindings, own.handle, own)

    def borrowed(self, handle: int) -> Stream:
        """Return somebody else's stream by its handle; who made it keeps it alive."""
        return Stream(self._bindings, handle, None)

    def event(self) -> Event:
        """Return a new event."""
        return Event(self._bindings)

    def upload(self, values: np.ndarray) -> DeviceArray:
        """Return a copy on the GPU, once it is there. Raises DeviceError."""
        dense = np.ascontiguousarray(values)
        array = DeviceArray(self.allocate(max(1, dense.nbytes)), dense.shape, dense.dtype)
        staged = self.pinned(max(1, dense.nbytes))
        staged[: dense.nbytes] = dense.reshape(-1).view(np.uint8)
        stream = self.stream()
        stream.copy(array.buffer.address, staged.ctypes.data, dense.nbytes)
        stream.synchronize()
        return array

    def download(self, array: DeviceArray) -> np.ndarray:
        """Return a copy on the host; whoever writes the array has been waited for."""
        size_bytes = int(np.prod(array.shape)) * array.dtype.itemsize
        staged = self.pinned(max(1, size_bytes))
        stream = self.stream()
        stream.copy(staged.ctypes.data, array.buffer.address, size_bytes)
        stream.synchronize()
        return staged[:size_bytes].view(array.dtype).reshape(array.shape).copy()

    def module(self, image: bytes) -> Module:
        """Load a cubin or fatbin. Raises DeviceError where it holds nothing for this GPU."""
        return Module(self._bindings, image)

    @cached_property
    def multiprocessors(self) -> int:
        """How many blocks run at once, at least."""
        names = self._bindings.CUdevice_attribute
        name = names.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
        return int(_check(self._bindings.cuDeviceGetAttribute(name, self.index)))

    def close(self) -> None:
        """Let the context go; it stays alive while other libraries hold it."""
        self._context = None

    def __repr__(self) -> str:
        return f"Device(cuda:{self.index}, {self.name}, {self.capability})"


class DeviceBuffer:
    """Memory on the GPU; freed with `free`, or when nobody holds it."""

    def __init__(self, allocation: Any, size_bytes: int) -> None:
        self._allocation = allocation
        self.address = int(allocation)
        self.size_bytes = size_bytes

    def free(self) -> None:
        """Free it now; a second call does nothing."""
        if self._allocation is not None:
            self._allocation.free()
            self._allocation = None


class DeviceArray:
    """A C-contiguous array on the GPU, as `__cuda_array_interface__` (version 3) tells it."""

    def __init__(
        self, buffer: DeviceBuffer, shape: tuple[int, ...], dtype: Any, stream: int | None = None
    ) -> None:
        """Show the buffer's beginning as an array; `stream` is where it is still being written."""
        self.buffer = buffer
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.stream = stream

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.buffer.address, False),
            "strides": None,
            "stream": self.stream,
        }


class Stream:
    """An ordered queue of work on the GPU, known by its handle."""

    def __init__(self, bindings: Any, handle: int, owner: Any) -> None:
        """Use `Device.stream` or `Device.borrowed`; the owner is kept alive."""
        self._bindings = bindings
        self._owner = owner
        self.handle = handle

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """Queue a copy between two addresses, host or GPU; host memory must be pinned."""
        if size_bytes:
            _check(self._bindings.cuMemcpyAsync(target, source, size_bytes, self.handle))

    def wait(self, event: Event) -> None:
        """Queue a wait for a mark."""
        _check(self._bindings.cuStreamWaitEvent(self.handle, event.handle, 0))

    def synchronize(self) -> None:
        """Block until all queued work is done. Raises DeviceError where it failed."""
        _check(self._bindings.cuStreamSynchronize(self.handle))

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        """Record what the block queues here into the graph it is given, instead of running it.

        The stream must not be the default one, and nothing may be allocated in the block.
        """
        mode = self._bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _check(self._bindings.cuStreamBeginCapture(self.handle, mode))
        graph = Graph(self._bindings)
        try:
            yield graph
        except BaseException:
            self._bindings.cuStreamEndCapture(self.handle)
            raise
        graph._finish(_check(self._bindings.cuStreamEndCapture(self.handle)))


class Module:
    """Compiled kernels on the GPU."""

    def __init__(self, bindings: Any, image: bytes) -> None:
        """Use `Device.module`."""
        self._bindings = bindings
        self._handle = _check(bindings.cuModuleLoadData(image))

    def function(self, name: str) -> Function:
        """Return a kernel by its name. Raises DeviceError where there is none."""
        found = _check(self._bindings.cuModuleGetFunction(self._handle, name.encode()))
        return Function(self._bindings, found, self)

    def close(self) -> None:
        """Unload the kernels; a second call does nothing."""
        if self._handle is not None:
            _check(self._bindings.cuModuleUnload(self._handle))
            self._handle = None


class Function:
    """One kernel, which takes one struct by value."""

    def __init__(self, bindings: Any, handle: Any, module: Module) -> None:
        """Use `Module.function`."""
        self._bindings = bindings
        self._handle = handle
        self._module = module  # kept loaded

    def launch(
        self,
        stream: Stream,
        arguments: ctypes.Structure,
        *,
        grid: tuple[int, int],
        threads: int,
        shared_bytes: int = 0,
    ) -> None:
        """Queue it; the arguments are copied, what they point to must stay."""
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        shape = (*grid, 1, threads, 1, 1, shared_bytes)
        address = ctypes.addressof(pointers)
        _check(self._bindings.cuLaunchKernel(self._handle, *shape, stream.handle, address, 0))


class Event:
    """A mark on a stream, for timing and for ordering."""

    def __init__(self, bindings: Any) -> None:
        self._bindings = bindings
        self.handle = _check(bindings.cuEventCreate(0))

    def record(self, stream: Stream) -> None:
        """Mark where the stream stands now."""
        _check(self._bindings.cuEventRecord(self.handle, stream.handle))

    def synchronize(self) -> None:
        """Block until the mark is reached."""
        _check(self._bindings.cuEventSynchronize(self.handle))

    def since_ms(self, earlier: Event) -> float:
        """Return the milliseconds between two marks that were reached."""
        return float(_check(self._bindings.cuEventElapsedTime(earlier.handle, self.handle)))

    def close(self) -> None:
        """Release the event; work that waits for it still does."""
        if self.handle is not None:
            _check(self._bindings.cuEventDestroy(self.handle))
            self.handle = None


class Graph:
    """Captured work: launched as one, at the addresses and sizes of its capture."""

    def __init__(self, bindings: Any) -> None:
        """Use `Stream.capture`."""
        self._bindings = bindings
        self._executable: Any = None

    def _finish(self, graph: Any) -> None:
        self._executable = _check(self._bindings.cuGraphInstantiate(graph, 0))
        _check(self._bindings.cuGraphDestroy(graph))

    def launch(self, stream: Stream) -> None:
        """Queue the whole graph."""
        _check(self._bindings.cuGraphLaunch(self._executable, stream.handle))

    def close(self) -> None:
        """Release the graph; a second call does nothing."""
        if self._executable is not None:
            _check(self._bindings.cuGraphExecDestroy(self._executable))
            self._executable = None


def _check(answer: tuple[Any, ...]) -> Any:
    """Return what a driver call gave besides its status. Raises DeviceError for an error."""
    status, *values = answer
    if int(status) != 0:
        raise DeviceError(f"the GPU failed: {getattr(status, 'name', status)}.")
    return values[0] if values else None


def _driver() -> Any:
    return ctypes.CDLL(_LIBRARY)


def _pycuda() -> Any:
    try:
        import pycuda.driver
    except ImportError as error:
        raise BackendMissing(
            f"pycuda is not installed. Install it (it compiles against CUDA):  {INSTALL}"
        ) from error
    return pycuda.driver


def _bindings() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise BackendMissing(f"cuda-bindings is not installed. Install it:  {INSTALL}") from error
    return driver
