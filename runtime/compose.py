"""The weighted composition of a bundle, from its small weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cir_rt.errors import BundleError, UsageError
from cir_rt.kernels.reference import Gate, compose

TENSORS = {
    "hidden_weight": "compose.hidden.weight",
    "hidden_bias": "compose.hidden.bias",
    "gate_weight": "compose.gate.weight",
    "gate_bias": "compose.gate.bias",
}


class WeightedComposer:
    """Turns pictures' and captions' vectors into queries, and says what it listened to."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return len(self.gate.hidden_bias)

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
        """Return unit queries (n, d) and weights (n, 2): picture, words.

        `weight` replaces the gate's: 1 listens to the picture only, 0 to the words only. Raises
        UsageError where it lies outside.
        """
        if weight is not None and not 0 <= weight <= 1:
            raise UsageError(f"weight {weight} is outside 0 (words only) to 1 (picture only).")
        return compose(v, u, self.gate, weight)
