"""How a bundle turns pictures' and captions' vectors into queries: by weights, or by an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cir_rt.bundle import Bundle
from cir_rt.engines import Engine, open_engine
from cir_rt.errors import BundleError, UsageError
from cir_rt.kernels.reference import Gate, compose

TENSORS = {
    "hidden_weight": "compose.hidden.weight",
    "hidden_bias": "compose.hidden.bias",
    "gate_weight": "compose.gate.weight",
    "gate_bias": "compose.gate.bias",
}
_TOGETHER = 32  # queries in one run of an engine


class Composer(Protocol):
    """What makes queries of both."""

    dim: int  # of pictures' vectors, and of queries
    weighted: bool  # by weights: they can be set, and words alone are a query too

    def __call__(
        self, v: np.ndarray, u: np.ndarray, weight: float | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return unit queries (n, dim) of pictures (n, dim) and words as the text engine gives.

        With them weights (n, 2), picture and words, or None where nothing is weighed. `weight`
        replaces the gate's: 1 listens to the picture only, 0 to the words only. Raises UsageError
        where it lies outside, or nothing is weighed.
        """

    def close(self) -> None:
        """Release what it holds."""


def open_composer(bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> Composer:
    """Load a bundle's composition. Raises BundleError, and what `open_engine` raises."""
    role = bundle.role("compose")
    if role.inputs:
        return EngineComposer(open_engine(bundle, "compose", device=device, threads=threads))
    return WeightedComposer.open(bundle.path(role.file), role.temperature)


class WeightedComposer:
    """Turns pictures' and captions' vectors into queries, and says what it listened to."""

    weighted = True

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.dim = len(gate.hidden_bias)

    @classmethod
    def open(cls, path: Path, temperature: float) -> WeightedComposer:
        """Read the gate from a safetensors file. Raises BundleError."""
        try:
            tensors = load_file(path)
            weights = {name: tensors[key].astype(np.float32) for name, key in TENSORS.items()}
        except (OSError, SafetensorError, KeyError) as error:
            raise BundleError(f"{path}: not a composition's weights ({error!r}).") from error
        return cls(Gate(**weights, temperature=temperature))

    def __call__(
        self, v: np.ndarray, u: np.ndarray, weight: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Composer`."""
        if weight is not None and not 0 <= weight <= 1:
            raise UsageError(f"weight {weight} is outside 0 (words only) to 1 (picture only).")
        return compose(v, u, self.gate, weight)

    def close(self) -> None:
        """Do nothing: the weights are plain arrays."""


class EngineComposer:
    """Composes by an engine: attention over both, which leaves no weights to tell."""

    weighted = False

    def __init__(self, engine: Engine) -> None:
        """Take an engine from `v` (batch, dim) and `u` to queries, which `close` closes."""
        self.engine = engine
        self.dim = int(engine.outputs[0].shape[1])

    def __call__(
        self, v: np.ndarray, u: np.ndarray, weight: float | None = None
    ) -> tuple[np.ndarray, None]:
        """See `Composer`."""
        if weight is not None:
            raise UsageError("weight: this system composes by attention. Leave it out.")
        output = self.engine.outputs[0].name
        parts = [
            self.engine.run({"v": v[k : k + _TOGETHER], "u": u[k : k + _TOGETHER]})[output]
            for k in range(0, len(v), _TOGETHER)
        ]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *parts]), None

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()
