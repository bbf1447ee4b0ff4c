"""The packages that hold TensorRT: what each is called, and the GPUs that it serves."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from cir_rt.errors import BackendMissing


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package; both have the same API and differ in where they build and run."""

    name: str  # as pip and the manifest call it
    module: str
    title: str
    install: str
    cross_builds: bool  # builds plans for GPUs that are not there
    capabilities: tuple[str, ...]  # that its plans run on; all, where there are none

    def load(self) -> Any:
        """Import the package. Raises BackendMissing with the line that installs it."""
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise BackendMissing(
                f"{self.title} is not installed ({error}). Install it:  {self.install}"
            ) from error


PACKAGES = {
    "tensorrt": Package(
        name="tensorrt",
        module="tensorrt",
        title="TensorRT",
        install="pip install 'cir-rt[tensorrt]'  (a Jetson has it from JetPack)",
        cross_builds=False,
        capabilities=(),
    ),
    "tensorrt-rtx": Package(
        name="tensorrt-rtx",
        module="tensorrt_rtx",
        title="TensorRT-RTX",
        install="pip install 'cir-rt[rtx]'",
        cross_builds=True,
        capabilities=("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121"),
    ),
}


@cache
def log_of(trt: Any) -> Any:
    """Return the one logger for this module: it prints nothing and keeps errors in `.errors`.

    TensorRT takes the first logger of a process for some messages, whatever others it is given.
    """
    errors = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in errors:
                self.errors.append(msg)

        def told(self) -> str:
            """Return what was said since the last time, in one line."""
            text = "; ".join(" ".join(line.split()) for line in self.errors) or "it said nothing"
            self.errors.clear()
            return text

    return Log()
