"""The backends that bundles are built for, a row each; a module is imported when it is chosen."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cir_rt.calibration.samples import Samples
    from cir_rt.export.build.backends.protocol import Backend
    from cir_rt.export.build.backends.sizes import Sizes
    from cir_rt.export.build.options import BuildOptions


@dataclass(frozen=True, kw_only=True)
class BackendRow:
    """Where a backend's class for a kind of device is, and what may be asked of it."""

    module: str
    name: str
    precisions: tuple[str, ...]  # besides `auto`


_TENSORRT = BackendRow(
    module="cir_rt.export.build.backends.tensorrt",
    name="TensorRtBackend",
    precisions=("fp32", "fp16", "int8", "fp8"),
)
# By backend and kind of device, the usual kind first; "cuda" stands for cuda:N too.
BACKENDS = {
    "onnxruntime": {
        "cpu": BackendRow(
            module="cir_rt.export.build.backends.onnxruntime",
            name="OnnxRuntimeBackend",
            precisions=("fp32", "int8"),
        ),
        "cuda": BackendRow(
            module="cir_rt.export.build.backends.onnxruntime_cuda",
            name="OnnxRuntimeCudaBackend",
            precisions=("fp32", "fp16"),
        ),
    },
    "tensorrt": {"cuda": _TENSORRT},
    "tensorrt-rtx": {"cuda": _TENSORRT},
}


def open_backend(options: BuildOptions, samples: Samples, scratch: Path, sizes: Sizes) -> Backend:
    """Return the options' backend. Raises BackendMissing where its library is not there.

    `sizes` are those that each free dimension of the graphs may take, by its name.
    """
    row = BACKENDS[options.backend][options.kind]
    backend = getattr(importlib.import_module(row.module), row.name)
    made: Backend = backend(options, samples, scratch, sizes)
    return made
