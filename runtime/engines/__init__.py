"""Inference engines behind one protocol, and the table that picks one by its backend's name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cir_rt.engines.protocol import Engine, TensorSpec
from cir_rt.errors import BackendMissing

if TYPE_CHECKING:
    from cir_rt.bundle import Bundle

__all__ = ["BACKENDS", "Engine", "TensorSpec", "open_engine"]

# backend -> module and class, imported on use. The class has
#     open(bundle, role, *, device, threads) -> Engine
# `role` is the role's name in the bundle; it raises what `open_engine` says.
BACKENDS = {
    "onnxruntime": ("cir_rt.engines.onnxruntime", "OnnxRuntimeEngine"),
    "tensorrt": ("cir_rt.engines.tensorrt", "TensorRtEngine"),
    "tensorrt-rtx": ("cir_rt.engines.tensorrt", "TensorRtEngine"),
}


def open_engine(
    bundle: Bundle, role: str, *, device: str = "cpu", threads: int | None = None
) -> Engine:
    """Open one of a bundle's engines with the backend that the bundle was built for.

    Raises BackendMissing where that backend or the device is not on this machine, EngineMismatch
    for an engine of another device, version or instruction set, and BundleError for one that does
    not load.
    """
    backend = bundle.manifest.target.backend
    if backend not in BACKENDS:
        raise BackendMissing(
            f"{bundle.folder}: backend '{backend}' is not known here. "
            f"Expected one of: {', '.join(BACKENDS)}."
        )
    module, name = BACKENDS[backend]
    engine: Engine = getattr(import_module(module), name).open(
        bundle, role, device=device, threads=threads
    )
    return engine
