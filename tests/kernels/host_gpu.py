"""A GPU played on the host that really runs the kernels: their .cu files, compiled by g++.

It stands below the CUDA seam, as `fake_gpu` does, so that the wrappers run as they are.
host/host.h says what this shows and what it does not.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from fake_gpu import FakeGpu, Status

from cir_rt.kernels.build import MAIN, SOURCES

HOST = Path(__file__).resolve().parent / "host"
FLAGS = ("-std=c++17", "-O1", "-g", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DSANITIZED")
SANITIZED = "CIR_RT_SANITIZED"  # set: compile with the sanitizers; they must be preloaded
MULTIPROCESSORS = 3


class Launch(ctypes.Structure):
    """host::Launch."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("threads", ctypes.c_uint),
        ("shared_bytes", ctypes.c_uint),
        ("order", ctypes.c_int),
    ]


def compiler() -> str | None:
    """Return a C++ compiler that may be here."""
    return shutil.which("g++") or shutil.which("clang++")


def compile_kernels(folder: Path, source: Path = SOURCES / MAIN) -> Path:
    """Return the kernels as a library for the host."""
    flags = [*FLAGS, *(SANITIZE if os.environ.get(SANITIZED) else ())]
    digest = hashlib.sha256(" ".join([str(source), *flags]).encode()).hexdigest()[:8]
    out = folder / f"kernels-{digest}.so"
    command = [str(compiler()), *flags, "-Wno-unknown-pragmas", f"-I{HOST}", f"-I{SOURCES}"]
    command += ["-x", "c++", str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


class HostGpu(FakeGpu):
    """A GPU of a few multiprocessors; `order` is that of its threads and blocks (host.h)."""

    def __init__(self, order: int = 0) -> None:
        super().__init__(name="Host GPU")
        self.order = order
        self.launched: list[str] = []

    def _bindings(self) -> Any:
        module = super()._bindings()
        names = {"CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT": 16}
        module.CUdevice_attribute = enum.IntEnum("CUdevice_attribute", names)
        return module

    def cuDeviceGetAttribute(self, name: int, index: int) -> tuple[Any, ...]:
        assert name == 16
        return (Status.CUDA_SUCCESS, MULTIPROCESSORS)

    def cuModuleLoadData(self, image: bytes) -> tuple[Any, ...]:
        """Load a library by its path, which stands for an image here."""
        self.require_current()
        return (Status.CUDA_SUCCESS, ctypes.CDLL(image.decode()))

    def cuModuleUnload(self, module: ctypes.CDLL) -> tuple[Any, ...]:
        return (Status.CUDA_SUCCESS,)

    def cuModuleGetFunction(self, module: ctypes.CDLL, name: bytes) -> tuple[Any, ...]:
        return (Status.CUDA_SUCCESS, (module, name.decode()))

    def cuLaunchKernel(self, function: Any, *facts: int) -> tuple[Any, ...]:
        """Queue a launch with a copy of its arguments."""
        self.require_current()
        (library, name), (x, y, z, threads, one, also, shared, stream, pointers, extra) = (
            function,
            facts,
        )
        assert (one, also, extra) == (1, 1, 0)
        assert min(x, y, z) > 0
        assert threads % 32 == 0
        size = ctypes.c_int.in_dll(library, f"{name}_bytes").value
        source = ctypes.c_void_p.from_address(pointers).value
        assert source is not None
        arguments = ctypes.create_string_buffer(ctypes.string_at(source, size), size)
        launch = Launch((ctypes.c_uint * 3)(x, y, z), threads, shared, self.order)
        self.launched.append(name)
        kernel = getattr(library, name)

        def work() -> None:
            kernel(arguments, ctypes.byref(launch))

        self.streams[stream].add(work)
        return (Status.CUDA_SUCCESS,)
