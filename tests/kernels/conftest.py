"""Where the kernels' tests run: on the host harness, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_gpu import HostGpu, compile_kernels, compiler

from cir_rt.errors import BackendMissing
from cir_rt.kernels.build import build
from cir_rt.kernels.cuda import Device, Module, Stream, probe


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A device with the kernels loaded."""

    device: Device
    module: Module
    stream: Stream
    host: HostGpu | None  # None: a real GPU

    def run(self, work: Callable[[Stream], None]) -> None:
        """Queue work and wait for it."""
        work(self.stream)
        self.stream.synchronize()

    def put(self, values: Any, dtype: Any = None) -> Any:
        return self.device.upload(np.asarray(values, dtype))

    def get(self, array: Any) -> np.ndarray:
        return self.device.download(array)


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels compiled for the host."""
    if compiler() is None:
        pytest.skip("neither g++ nor clang++ is here: the host harness needs one")
    return compile_kernels(tmp_path_factory.mktemp("host"))


def _devices() -> list[str]:
    try:
        probe()
    except BackendMissing:
        return ["host"]
    return ["host", "gpu"]


@pytest.fixture(params=_devices())
def bench(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    """Run the test on the host harness, then on a GPU where there is one."""
    host = HostGpu() if request.param == "host" else None
    if host is not None:
        image = str(request.getfixturevalue("host_library")).encode()
        host.install(monkeypatch)
        device = Device()
    else:
        device, image = _gpu(tmp_path_factory)
    with device.current():
        module = device.module(image)
        yield Bench(device=device, module=module, stream=device.stream(), host=host)
    device.close()


def _gpu(folders: pytest.TempPathFactory) -> tuple[Device, bytes]:
    try:
        device = Device()
        fatbin = build([device.capability], cache=folders.getbasetemp() / "fatbins")
    except BackendMissing as missing:
        pytest.skip(f"a GPU is here, but: {missing}")
    return device, fatbin.path.read_bytes()
