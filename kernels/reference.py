"""Numpy oracles: the CPU path of each kernel and the reference of its tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Weights of the gate MLP, 2d -> d -> 2, all float32."""

    hidden_weight: np.ndarray  # (d, 2d)
    hidden_bias: np.ndarray  # (d,)
    gate_weight: np.ndarray  # (2, d)
    gate_bias: np.ndarray  # (2,)
    temperature: float = 1.0


def compose(
    v: np.ndarray, u: np.ndarray, gate: Gate, weight: float | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return q = l2norm(w_v v + w_t u), (n, d), and (w_v, w_t), (n, 2), both float32.

    (w_v, w_t) = softmax(MLP([v; u]) / temperature), MLP with one ReLU layer. `weight` in [0, 1]
    replaces w_v for every row, or row by row.
    """
    if weight is None:
        hidden = np.concatenate([v, u], axis=-1) @ gate.hidden_weight.T + gate.hidden_bias
        logits = (np.maximum(hidden, 0) @ gate.gate_weight.T + gate.gate_bias) / gate.temperature
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        weights = odds / odds.sum(-1, keepdims=True)
    else:
        picture = np.broadcast_to(np.asarray(weight, np.float32), (len(v),))
        weights = np.stack([picture, 1 - picture], axis=-1)
    mixed = weights[:, :1] * v + weights[:, 1:] * u
    length = np.maximum(np.linalg.norm(mixed, axis=-1, keepdims=True), 1e-6)
    return (mixed / length).astype(np.float32), weights.astype(np.float32)
