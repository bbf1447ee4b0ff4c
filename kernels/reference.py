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
    replaces w_v for every row, or row by row; where it is NaN the gate decides.
    """
    picture = np.broadcast_to(np.asarray(np.nan if weight is None else weight, "f4"), (len(v),))
    weights = np.stack([picture, 1 - picture], axis=-1)
    if np.isnan(picture).any():
        hidden = np.concatenate([v, u], axis=-1) @ gate.hidden_weight.T + gate.hidden_bias
        logits = (np.maximum(hidden, 0) @ gate.gate_weight.T + gate.gate_bias) / gate.temperature
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        weights = np.where(np.isnan(weights), odds / odds.sum(-1, keepdims=True), weights)
    mixed = weights[:, :1] * v + weights[:, 1:] * u
    length = np.maximum(np.linalg.norm(mixed, axis=-1, keepdims=True), 1e-6)
    return (mixed / length).astype(np.float32), weights.astype(np.float32)


def quantize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return INT8 codes (n, d) and scales (n,) float32 of (n, d): x = code * scale, symmetric."""
    scales = np.abs(x).max(axis=-1, initial=0).astype(np.float32) / np.float32(127)
    codes = np.rint(x / np.where(scales > 0, scales, 1)[:, None])
    return codes.clip(-127, 127).astype(np.int8), scales


def sign_bits(x: np.ndarray) -> np.ndarray:
    """Return (n, words) uint32 of (n, d): bit i of word j is set where x[32 j + i] > 0.

    Rows are filled with unset bits up to a multiple of 128.
    """
    bits = np.zeros((len(x), -(-x.shape[1] // 128) * 128), bool)
    bits[:, : x.shape[1]] = x > 0
    return np.packbits(bits, axis=1, bitorder="little").view("<u4")


def scan(
    queries: np.ndarray,
    rows: np.ndarray,
    k: int,
    mask: np.ndarray | None = None,
    exclude: np.ndarray | None = None,
    *,
    query_scales: np.ndarray | None = None,
    row_scales: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, scores) of the k greatest inner products, (n, k) int32 and float32.

    queries (n, d) and rows (m, d) are floats, or INT8 codes with their scales. mask is (m,) bool,
    the rows that may be found; exclude (n,) names one more row that a query may not find, -1 for
    none. Best first, the lower row first among equals; where rows run out, row -1 and score -inf.
    """
    if query_scales is None or row_scales is None:
        scores = queries.astype(np.float32) @ rows.astype(np.float32).T
    else:
        sums = queries.astype(np.int32) @ rows.astype(np.int32).T
        scores = sums.astype(np.float32) * (query_scales[:, None] * row_scales)
    return best(scores, k, mask, exclude)


def scan_signs(
    queries: np.ndarray,
    rows: np.ndarray,
    dim: int,
    k: int,
    mask: np.ndarray | None = None,
    exclude: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, scores) of the k rows whose signs agree most, as `scan` does.

    queries and rows are `sign_bits` of vectors of `dim` numbers; a score is how many signs are
    equal less how many are not.
    """
    unequal = np.unpackbits((queries[:, None] ^ rows[None]).view(np.uint8), axis=-1).sum(-1)
    return best((dim - 2 * unequal.astype(np.int64)).astype(np.float32), k, mask, exclude)


def rescore(
    queries: np.ndarray, rows: np.ndarray, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, scores) of the best k among candidates, as `scan` does.

    candidates (n, c) are rows of the store (m, d), -1 for none.
    """
    found = rows[np.maximum(candidates, 0)].astype(np.float32)  # (n, c, d)
    scores = (found * queries.astype(np.float32)[:, None]).sum(-1)
    scores = np.where(candidates >= 0, scores, -np.inf)
    order = np.lexsort((candidates, -scores), axis=-1)[:, :k]
    scores = np.take_along_axis(scores, order, 1)
    picked = np.where(np.isfinite(scores), np.take_along_axis(candidates, order, 1), -1)
    return _filled(picked, k, -1, np.int32), _filled(scores, k, -np.inf, np.float32)


def best(
    scores: np.ndarray, k: int, mask: np.ndarray | None, exclude: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k greatest of scores (n, m) in each row, by the rules of `scan`."""
    allowed = np.isfinite(scores)
    if mask is not None:
        allowed &= mask
    if exclude is not None:
        allowed &= np.arange(scores.shape[1]) != exclude[:, None]
    scores = np.where(allowed, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(scores, order, 1)
    rows = np.where(np.isfinite(scores), order, -1)
    return _filled(rows, k, -1, np.int32), _filled(scores, k, -np.inf, np.float32)


def _filled(found: np.ndarray, k: int, filler: float, dtype: type) -> np.ndarray:
    whole: np.ndarray = np.full((len(found), k), filler, dtype)
    whole[:, : found.shape[1]] = found
    return whole
