"""Composed image retrieval on the device: a picture and a sentence in, ranked pictures out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cir_rt import errors

if TYPE_CHECKING:
    from cir_rt.results import Hits
    from cir_rt.retriever import Retriever

# ONNX Runtime 1.31 collects telemetry, in a file in the home folder, unless it is told not to
# before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Hits", "Retriever", "errors"]

_LAZY = {"Retriever": "cir_rt.retriever", "Hits": "cir_rt.results"}


def __getattr__(name: str) -> Any:
    """Import the public classes on first use, so that `import cir_rt` stays light."""
    if name not in _LAZY:
        raise AttributeError(f"module 'cir_rt' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
