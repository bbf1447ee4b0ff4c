"""The backends that bundles are built for, a row each; a module is imported when it is chosen."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cir_rt.calibration.samples import Samples
    from cir_rt.export.build.backends.protocol import Backend
    from cir_rt.export.build.options import BuildOptions


@dataclass(frozen=True, kw_only=True)
class BackendRow:
    """Where a backend's class is, and what may be asked of it."""

    module: str
    name: str
    devices: tuple[str, ...]  # kinds, the default first: "cuda" stands for cuda:N too
    precisions: tuple[str, ...]  # besides `auto`


BACKENDS = {
    "onnxruntime": BackendRow(
        module="cir_rt.export.build.backends.onnxruntime",
        name="OnnxRuntimeBackend",
        devices=("cpu",),
        precisions=("fp32", "int8"),
    ),
    **{
        package: BackendRow(
            module="cir_rt.export.build.backends.tensorrt",
            name="TensorRtBackend",
            devices=("cuda",),
            precisions=("fp32", "fp16", "int8", "fp8"),
        )
        for package in ("tensorrt", "tensorrt-rtx")
    },
}


def open_backend(
    options: BuildOptions, samples: Samples, scratch: Path, limits: Mapping[str, int]
) -> Backend:
    """Return the options' backend. Raises BackendMissing where its library is not there.

    `limits` is the largest size of each free dimension of the graphs, by its name.
    """
    row = BACKENDS[options.backend]
    backend = getattr(importlib.import_module(row.module), row.name)
    made: Backend = backend(options, samples, scratch, limits)
    return made
