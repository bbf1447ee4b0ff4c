"""The CUDA seam on a played GPU: copies in order, marks, captures, and what is refused.

Where there is a GPU, pycuda and cuda-bindings, the same holds on it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from fake_gpu import FakeGpu

from cir_rt.errors import BackendMissing, DeviceError
from cir_rt.kernels import cuda
from cir_rt.kernels.cuda import Device, DeviceArray


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    played = FakeGpu(capability="sm_120", count=2)
    played.install(monkeypatch)
    return played


@pytest.fixture(params=["played", "real"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    if request.param == "played":
        request.getfixturevalue("gpu")
    try:
        found = Device()
    except BackendMissing as missing:
        pytest.skip(str(missing))
    yield found
    found.close()


def test_bytes_go_there_and_back(device: Device) -> None:
    rng = np.random.default_rng(0)
    with device.current():
        stream = device.stream()
        for size in (1, 7, 111, 989, 1 << 20):
            there, first, last = device.allocate(size), device.pinned(size), device.pinned(size)
            first[:] = rng.integers(0, 256, size)
            last[:] = 0
            stream.copy(there.address, first.ctypes.data, size)
            stream.copy(last.ctypes.data, there.address, size)
            stream.synchronize()
            np.testing.assert_array_equal(first, last)
            there.free()
            there.free()


def test_a_captured_copy_is_replayed(device: Device) -> None:
    with device.current():
        stream = device.stream()
        there, first, last = device.allocate(16), device.pinned(16), device.pinned(16)
        with stream.capture() as graph:
            stream.copy(there.address, first.ctypes.data, 16)
            stream.copy(last.ctypes.data, there.address, 16)
        for value in (3, 5):
            first[:], last[:] = value, 0
            graph.launch(stream)
            stream.synchronize()
            assert (last == value).all()
        graph.close()
        graph.close()


def test_a_capture_that_fails_is_ended(device: Device) -> None:
    with device.current():
        stream = device.stream()

        with pytest.raises(ZeroDivisionError), stream.capture():
            raise ZeroDivisionError
        stream.synchronize()


def test_a_stream_waits_for_a_mark_on_another(device: Device) -> None:
    with device.current():
        first, second = device.stream(), device.stream()
        there, start, end = device.allocate(64), device.pinned(64), device.pinned(64)
        start[:], end[:] = 9, 0
        begun, done = device.event(), device.event()
        begun.record(first)
        first.copy(there.address, start.ctypes.data, 64)
        done.record(first)
        second.wait(done)
        second.copy(end.ctypes.data, there.address, 64)
        second.synchronize()
        assert (end == 9).all()
        done.synchronize()
        assert done.since_ms(begun) >= 0
        done.close()
        done.close()


def test_a_borrowed_stream_is_the_same_queue(device: Device) -> None:
    with device.current():
        own, there = device.stream(), device.allocate(8)
        start, end = device.pinned(8), device.pinned(8)
        start[:], end[:] = 4, 0
        own.copy(there.address, start.ctypes.data, 8)
        borrowed = device.borrowed(own.handle)
        borrowed.copy(end.ctypes.data, there.address, 8)
        own.synchronize()
        assert (end == 4).all()


def test_an_array_tells_where_it_is(device: Device) -> None:
    with device.current():
        array = DeviceArray(device.allocate(24), (2, 3), np.float32, stream=7)
        facts = array.__cuda_array_interface__
    assert facts["shape"] == (2, 3)
    assert facts["typestr"] == "<f4"
    assert facts["data"] == (array.buffer.address, False)
    assert (facts["strides"], facts["stream"], facts["version"]) == (None, 7, 3)


def test_it_says_which_gpu_it_is(gpu: FakeGpu) -> None:
    assert cuda.probe() == 2
    assert repr(Device(1)) == "Device(cuda:1, Fake GPU, sm_120)"
    with pytest.raises(BackendMissing, match="asked for cuda:2, the driver serves 2"):
        Device(2)


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:11", 11)])
def test_names_of_devices(name: str, index: int) -> None:
    assert cuda.device_index(name) == index


@pytest.mark.parametrize("name", ["cpu", "cuda:", "cuda:x", "CUDA", "", "cuda:-1"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(BackendMissing, match=r"cuda, cuda:N"):
        cuda.device_index(name)


@pytest.mark.parametrize(
    ("module", "said"), [("pycuda.driver", "pycuda"), ("cuda.bindings", "cuda-bindings")]
)
def test_a_missing_package_is_said(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, module: str, said: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendMissing, match=rf"{said} is not installed.*cir-rt\[gpu\]"):
        Device()


def test_a_driver_without_a_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(count=0).install(monkeypatch)
    with pytest.raises(BackendMissing, match="serves no GPU here"):
        cuda.probe()


def test_full_memory_is_said(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    driver = sys.modules["pycuda.driver"]

    def full(size: int) -> None:
        raise driver.MemoryError("out of memory")

    monkeypatch.setattr(driver, "mem_alloc", full)
    with device.current(), pytest.raises(DeviceError, match="no 8 bytes are free"):
        device.allocate(8)


def test_what_the_driver_refuses_is_told(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_gpu import Status

    refused = (Status.CUDA_ERROR_INVALID_VALUE,)
    monkeypatch.setattr(
        sys.modules["cuda.bindings.driver"], "cuStreamSynchronize", lambda stream: refused
    )
    device = Device()
    with device.current(), pytest.raises(DeviceError, match="CUDA_ERROR_INVALID_VALUE"):
        device.stream().synchronize()


def test_the_context_must_be_current(gpu: FakeGpu) -> None:
    """The played GPU refuses what a real one would: this is its own test."""
    with pytest.raises(AssertionError, match="not current"):
        Device().allocate(8)
